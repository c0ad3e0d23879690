"""Conversations and media to model inputs.

Shapes: B conversations, L tokens, V pictures and videos of the whole batch, T frames, S side of a
frame, A sounds of the whole batch, C clips of a sound, M mel bins, F mel frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from video_llama.errors import OptionError, PromptError
from video_llama.media.clip import SOUND_RATE, MediaClip
from video_llama.media.resample import resample
from video_llama.processing.conversation import MediaPart, Message, parse_conversation
from video_llama.processing.frames import IMAGE_MEAN, IMAGE_STD, frames_to_pixel_values
from video_llama.processing.media_inputs import describe_part, require_media, stack_frames
from video_llama.processing.mel import SOUND_CHANNELS, MelSettings, sound_to_clips
from video_llama.processing.prompt_template import Layout, PromptTemplate
from video_llama.processing.segments import Segment, segments_to_text
from video_llama.processing.templates import get_template
from video_llama.processing.tokens import (
    Placeholder,
    TokenizedPrompt,
    pad_prompts,
    pad_token_id,
    tokenize_segments,
)

Conversation = Sequence[Mapping[str, Any]]


class VideoLlamaProcessor(ProcessorMixin):
    """Turns conversations about media into what `VideoLlamaForConditionalGeneration` takes.

    Args:
        tokenizer: of the language model; see `processing.tokenizer.load_tokenizer`.
        template: name of the prompt template: "vicuna", "llama_2" or "plain".
        image_size: S.
        num_frames: frames looked at in a video.
        num_clips, clip_seconds: how many stretches of a sound are listened to, and how long.
        num_mel_bins, target_length: M and F of a clip.
        mel_mean, mel_std: normalisation of the log-mel energies.
        image_mean, image_std: normalisation of the three colours.
        sound_channels: "first" as the published weights want it, "mean" for new models.
        num_image_tokens, num_video_tokens, num_audio_tokens: placeholders of one medium, the query
            tokens of the branch. No audio tokens: the model has no audio branch, and sound is not
            used.
        image_token_id, video_token_id, audio_token_id: the placeholders' ids, as in the model's
            configuration: beyond the language model's table. By default the tokenizer's length
            + 0, 1 and 2; a table longer than its tokenizer needs them given.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str = "vicuna",
        image_size: int = 224,
        num_frames: int = 8,
        num_clips: int = 8,
        clip_seconds: float = 2.0,
        num_mel_bins: int = 128,
        target_length: int = 204,
        mel_mean: float = -4.268,
        mel_std: float = 9.138,
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
        sound_channels: str = "mean",
        num_image_tokens: int = 32,
        num_video_tokens: int = 32,
        num_audio_tokens: int = 8,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        audio_token_id: int | None = None,
    ) -> None:
        super().__init__(tokenizer)
        get_template(template)
        if sound_channels not in SOUND_CHANNELS:
            raise OptionError(f"sound_channels is one of {SOUND_CHANNELS}, not {sound_channels!r}")
        self.template = template
        self.image_size = image_size
        self.num_frames = num_frames
        self.num_clips = num_clips
        self.clip_seconds = clip_seconds
        self.num_mel_bins = num_mel_bins
        self.target_length = target_length
        self.mel_mean = mel_mean
        self.mel_std = mel_std
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.sound_channels = sound_channels
        self.num_image_tokens = num_image_tokens
        self.num_video_tokens = num_video_tokens
        self.num_audio_tokens = num_audio_tokens
        beyond = len(tokenizer)
        self.image_token_id = beyond if image_token_id is None else image_token_id
        self.video_token_id = beyond + 1 if video_token_id is None else video_token_id
        self.audio_token_id = beyond + 2 if audio_token_id is None else audio_token_id

    @property
    def prompt_template(self) -> PromptTemplate:
        """How conversations are written."""
        return get_template(self.template)

    @property
    def has_audio_branch(self) -> bool:
        """Whether the model listens."""
        return self.num_audio_tokens > 0

    @property
    def mel_settings(self) -> MelSettings:
        """How sounds are cut and normalised."""
        return MelSettings(
            num_clips=self.num_clips,
            clip_seconds=self.clip_seconds,
            num_mel_bins=self.num_mel_bins,
            target_length=self.target_length,
            mean=self.mel_mean,
            std=self.mel_std,
        )

    @property
    def placeholders(self) -> dict[str, Placeholder]:
        """What stands for a medium in the token ids, by kind."""
        return {
            "image": Placeholder(self.image_token_id, self.num_image_tokens),
            "video": Placeholder(self.video_token_id, self.num_video_tokens),
            "audio": Placeholder(self.audio_token_id, self.num_audio_tokens),
        }

    @property
    def model_input_names(self) -> list[str]:
        """All inputs this processor can make."""
        return [
            "input_ids",
            "attention_mask",
            "pixel_values_videos",
            "video_frame_mask",
            "input_features",
        ]

    def __call__(
        self,
        conversation: str | Conversation | Sequence[Conversation],
        clips: Sequence[Any] | None = None,
        **options: Any,
    ) -> Any:
        """`apply_chat_template`; a bare text is a question about all of `clips`."""
        if isinstance(conversation, str):
            parts: list[dict[str, Any]] = [{"type": clip.info.kind} for clip in clips or ()]
            parts += [{"type": "text", "text": conversation}] if conversation else []
            conversation = [{"role": "user", "content": parts}]
        return self.apply_chat_template(conversation, clips=clips, **options)

    def apply_chat_template(  # pyrefly: ignore[bad-override]
        self,
        conversation: Conversation | Sequence[Conversation],
        *,
        clips: Sequence[Any] | None = None,
        tokenize: bool = True,
        add_generation_prompt: bool | None = None,
        return_dict: bool = True,
        return_tensors: str = "pt",
        return_labels: bool = False,
        return_media: bool = True,
        layout: Layout | None = None,
        padding_side: str | None = None,
        max_length: int | None = None,
        num_frames: int | None = None,
        media_options: Mapping[str, Any] | None = None,
        padding: Literal[True, "longest"] = True,
    ) -> Any:
        """Model inputs of one conversation or a batch of them.

        Media come from `clips`, or are loaded from the sources named in the parts. With neither,
        the prompt has their placeholders only, and features are given to the model instead.

        Args:
            conversation: messages as in `processing.conversation`; a list of such for a batch.
            clips: loaded media in the order of the parts; for a batch a list for each conversation.
            tokenize: False gives the prompt as text, for people to read.
            add_generation_prompt: end with the opening of an answer; by default if all
                conversations end with a question.
            return_dict: False gives lists of ids alone, without padding.
            return_tensors: "pt".
            return_labels: add `labels`: ids of the answers and their end marks, -100 elsewhere.
            return_media: False leaves out pixels and mel clips; the prompt stays the same.
            layout: "chat" or "training"; by default the latter with labels.
            padding_side: "left" to generate, "right" to train; by default by `return_labels`.
            max_length: cut ids on the right, for training. Prompts are never cut: see
                `tokens.check_fits`.
            num_frames: of a video that is loaded here, instead of the processor's setting.
            media_options: more arguments of `load_media`, such as limits and policy.
            padding: True or "longest"; a batch is always padded to its longest.

        Returns:
            A BatchFeature with `input_ids` and `attention_mask` (B, L), `labels` (B, L) if asked
            for, `pixel_values_videos` (V, T, 3, S, S) if anything is seen, with `video_frame_mask`
            (V, T) if the numbers of frames differ, and `input_features` (A, C, 1, M, F) if anything
            is heard. Rows of media are in the order of their placeholder runs over the batch.

        Raises:
            PromptError: a malformed conversation, or one without an answer where labels are wanted.
            MediaError: a medium that cannot be read or used.
        """
        if return_tensors != "pt":
            raise OptionError(f"return_tensors is 'pt', not {return_tensors!r}")
        if padding not in (True, "longest"):
            raise OptionError(f"a batch is padded to its longest: padding is True, not {padding!r}")
        if num_frames is None:
            num_frames = self.num_frames
        single, conversations, given = _as_batch(conversation, clips)
        load_options = {"num_frames": num_frames, **(media_options or {})}
        read = [
            self._read(one, loaded, load_options)
            for one, loaded in zip(conversations, given, strict=True)
        ]
        if return_labels and any(messages[-1].role != "assistant" for messages, _ in read):
            raise PromptError("a training sample must end with an answer; add the assistant's turn")
        if add_generation_prompt is None:
            add_generation_prompt = all(messages[-1].role == "user" for messages, _ in read)
        rendered = [
            self.messages_to_segments(
                messages,
                layout=layout or ("training" if return_labels else "chat"),
                add_generation_prompt=add_generation_prompt,
            )
            for messages, _ in read
        ]
        if not tokenize:
            texts = [segments_to_text(segments) for segments in rendered]
            return texts[0] if single else texts
        prompts = [self.tokenize_segments(segments, max_length) for segments in rendered]
        if not return_dict:
            ids = [prompt.input_ids for prompt in prompts]
            return ids[0] if single else ids
        data = self.pad(prompts, padding_side or ("right" if return_labels else "left"))
        if not return_labels:
            del data["labels"]
        if return_media:
            data.update(self._media_inputs(prompts, [loaded for _, loaded in read]))
        return BatchFeature(data)

    def messages_to_segments(
        self,
        messages: Sequence[Message],
        *,
        layout: Layout = "chat",
        add_generation_prompt: bool = False,
    ) -> list[Segment]:
        """A conversation as the template writes it; see `PromptTemplate.render`."""
        return self.prompt_template.render(
            messages,
            layout=layout,
            add_generation_prompt=add_generation_prompt,
            has_audio_branch=self.has_audio_branch,
        )

    def tokenize_segments(
        self, segments: Sequence[Segment], max_length: int | None = None
    ) -> TokenizedPrompt:
        """Ids and labels of what a template wrote; see `tokens.tokenize_segments`."""
        return tokenize_segments(segments, self.tokenizer, self.placeholders, max_length)

    def pad(self, prompts: Sequence[TokenizedPrompt], side: str) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `labels` (B, L); see `tokens.pad_prompts`."""
        return pad_prompts(prompts, pad_token_id(self.tokenizer), side)

    def describe_clip(self, part: MediaPart, clip: MediaClip) -> MediaPart:
        """What a part turns out to be, now that its medium is loaded; see `describe_part`."""
        return describe_part(part, clip, self.has_audio_branch)

    def clip_to_pixel_values(self, clip: MediaClip) -> torch.Tensor:
        """Its frames, float32 (T, 3, S, S)."""
        frames = require_media(clip.frames, clip, "picture")
        return frames_to_pixel_values(frames, self.image_size, self.image_mean, self.image_std)

    def clip_to_input_features(self, clip: MediaClip) -> torch.Tensor:
        """Its sound, float32 (C, 1, M, F)."""
        sound = torch.from_numpy(require_media(clip.sound, clip, "sound"))
        if clip.sound_rate != SOUND_RATE:  # a clip that somebody else has made
            sound = resample(sound, clip.sound_rate, SOUND_RATE)
        return sound_to_clips(sound, self.mel_settings, channels=self.sound_channels)

    def decode_answer(self, ids: Sequence[int]) -> str:
        """The answer in generated ids; see `PromptTemplate.decode_answer`."""
        return self.prompt_template.decode_answer(ids, self.tokenizer)

    def _read(
        self,
        conversation: Conversation,
        clips: Sequence[MediaClip] | None,
        load_options: dict[str, Any],
    ) -> tuple[list[Message], list[MediaClip]]:
        """The messages with the facts of their media, and the media (none: placeholders only)."""
        messages = parse_conversation(conversation)
        parts = [part for message in messages for part in message.media]
        loaded = self._load(parts, load_options) if clips is None else list(clips)
        if not loaded:
            return messages, []
        if len(loaded) != len(parts):
            raise PromptError(
                f"the conversation names {len(parts)} media and {len(loaded)} were given"
            )
        facts = iter(map(self.describe_clip, parts, loaded))
        return [
            replace(
                message,
                parts=tuple(
                    next(facts) if isinstance(part, MediaPart) else part for part in message.parts
                ),
            )
            for message in messages
        ], loaded

    def _load(self, parts: Sequence[MediaPart], options: dict[str, Any]) -> list[MediaClip]:
        """Load the media that name a source: all of them or none."""
        missing = sum(part.source is None for part in parts)
        if missing == len(parts):
            return []
        if missing:
            raise PromptError(
                f"{missing} of {len(parts)} media name no source; name all of them, "
                "or give all as clips"
            )
        # Reading media loads PyAV, which a training process on cached features never needs.
        from video_llama.media.reader import load_media

        def load(part: MediaPart) -> MediaClip:
            defaults: dict[str, Any] = {
                "with_frames": part.is_seen,
                "with_sound": self.has_audio_branch and part.sound is not False,
                "sound_channels": self.sound_channels,
            }
            return load_media(part.source, **(defaults | options))

        return [load(part) for part in parts]

    def _media_inputs(
        self, prompts: Sequence[TokenizedPrompt], clips: Sequence[Sequence[MediaClip]]
    ) -> dict[str, torch.Tensor]:
        """Pixels and mel clips in the order of the placeholder runs."""
        frames, sounds = [], []
        for prompt, loaded in zip(prompts, clips, strict=True):
            for medium in prompt.media if loaded else ():
                clip = loaded[medium.part]
                if medium.kind == "audio":
                    sounds.append(self.clip_to_input_features(clip))
                else:
                    frames.append(self.clip_to_pixel_values(clip))
        data = stack_frames(frames)
        if sounds:
            data["input_features"] = torch.stack(sounds)
        return data


def _as_batch(
    conversation: Conversation | Sequence[Conversation], clips: Sequence[Any] | None
) -> tuple[bool, list[Conversation], list[Sequence[MediaClip] | None]]:
    """Whether it is one conversation, and a list of them with the clips of each."""
    single = not conversation or isinstance(conversation[0], Mapping)
    conversations = cast("list[Conversation]", [conversation] if single else list(conversation))
    if clips is None:
        return single, conversations, [None] * len(conversations)
    given: list[Sequence[MediaClip] | None] = [clips] if single else list(clips)
    if len(given) != len(conversations):
        raise PromptError(
            f"{len(conversations)} conversations need as many lists of clips, not {len(given)}"
        )
    return single, conversations, given

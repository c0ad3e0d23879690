"""From a draw to a sample that is ready for a batch: media read, text tokenised.

A bad sample becomes a `Rejected` that names it, and is never replaced by another. What chance there
is (frames, crops, which of several captions) comes from the seed and the position in the run, so
it is the same with any number of workers and after any interruption.

Shapes: L tokens, T frames, S side of a frame, C clips, M mel bins, F mel frames.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from video_llama.data.medium import (
    EncodedMedia,
    Medium,
    MediumRequest,
    Sampling,
    Side,
    read_medium,
)
from video_llama.data.mixture import Draw
from video_llama.data.sample import Rows, Sample, cleaned_caption
from video_llama.errors import DataError, MediaError, OptionError, PromptError
from video_llama.media.limits import Limits
from video_llama.processing.captions import (
    CAPTION_PROMPTS,
    STAGE1_MAX_TOKENS,
    caption_segments,
    prompted_caption_segments,
)
from video_llama.processing.conversation import MediaPart, Message, parse_conversation
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.processing.segments import Segment
from video_llama.processing.tokens import IGNORE_INDEX, TokenizedPrompt

Branch = Literal["vision", "audio"]
Modality = Literal["vision", "audio"]


@dataclass(frozen=True)
class Prepared:
    """One sample ready for a batch.

    Attributes:
        key, position: which one.
        prompt: ids and labels (L), and the media in the order of their placeholder runs.
        frames: (T, 3, S, S) of each medium that is seen, in that order.
        clips: (C, 1, M, F) of each that is heard; with `clip_modality` "vision" the frames
            (T, 3, S, S) in its place, for the vision side of ImageBind.
        encoded: frames and clips hold what the frozen encoders make of them: (T, queries, width)
            and (C, width).
    """

    key: str
    position: int
    prompt: TokenizedPrompt
    frames: tuple[torch.Tensor, ...] = ()
    clips: tuple[torch.Tensor, ...] = ()
    clip_modality: Modality = "audio"
    encoded: bool = False


@dataclass(frozen=True)
class Rejected:
    """A sample that cannot be used, and why, in one line."""

    key: str
    position: int
    reason: str


class TrainingDataset(torch.utils.data.Dataset[Prepared | Rejected]):
    """Samples by `Draw`.

    Args:
        rows: the data sets of the mixture, in its order.
        processor: of the model.
        branch: which branch sees the media. "vision": pictures and videos, without their sound.
            "audio": every medium stands as a sound in the text.
        modality: what the audio branch is given: "vision", the frames of pictures and videos
            through ImageBind's vision side, as published; "audio", the sound of sounds and videos.
        num_frames, sampling: of a video. A picture has one frame.
        seed: decides all chance, together with the position.
        max_length: tokens beyond it are cut off on the right; never through a medium.
        context: tokens that the language model has places for; longer samples are refused.
        encoded: where encoder states are looked up instead of reading media.
        crop: cut a random box from the frames, as the published training does; not with `encoded`.
        limits: of one medium.

    Raises:
        OptionError: settings that do not go together.
    """

    def __init__(
        self,
        rows: Sequence[Rows],
        processor: VideoLlamaProcessor,
        branch: Branch,
        *,
        modality: Modality = "vision",
        num_frames: int | None = None,
        sampling: Sampling = "uniform",
        seed: int = 0,
        max_length: int | None = None,
        context: int | None = None,
        encoded: EncodedMedia | None = None,
        crop: bool = False,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ) -> None:
        if branch == "audio" and not processor.has_audio_branch:
            raise OptionError("this model has no audio branch to train; choose branch 'vision'")
        if crop and encoded is not None:
            raise OptionError("cropped frames are not in a cache; switch one of them off")
        self.rows = tuple(rows)
        self.processor = processor
        self.branch = branch
        self.modality = modality
        self.num_frames = num_frames or processor.num_frames
        self.sampling: Sampling = sampling
        self.seed = seed
        self.max_length = max_length
        self.context = context
        self.encoded = encoded
        self.crop = crop
        self.limits = limits

    @property
    def side(self) -> Side:
        """What is taken of every medium."""
        return "sound" if (self.branch, self.modality) == ("audio", "audio") else "frames"

    def __getitem__(self, index: Draw) -> Prepared | Rejected:
        """A sample, or why it cannot be used."""
        rows = self.rows[index.dataset]
        key, identity = f"{rows.name}#{index.row}", ""
        try:
            sample = rows[index.row]
            identity = sample.identity
            return self.prepare(sample, index.position)
        except (DataError, MediaError, PromptError) as error:
            reason = " ".join(str(error).split()).removeprefix(f"{key}: ")
            if identity not in reason:
                reason = f"{identity}: {reason}"  # what is not named in bytes from a shard
            return Rejected(key, index.position, reason)

    def requests(self, sample: Sample, position: int) -> list[MediumRequest]:
        """What is wanted of the media of a sample, in their order."""
        chance = random.Random(f"media {self.seed} {position}")  # the same in every version
        return [
            MediumRequest(
                source,
                self.side,
                self.num_frames,
                self.sampling,
                chance.getrandbits(63),
                crop=self.crop,
            )
            for _, source in sample.media()
        ]

    def prepare(self, sample: Sample, position: int) -> Prepared:
        """A sample ready for a batch.

        Raises:
            DataError: nothing can be learnt from it.
            MediaError: a medium cannot be used.
            PromptError: its conversation is malformed, or the media do not fit in `max_length`.
        """
        self._require_fitting(sample)
        media = [self._medium(request) for request in self.requests(sample, position)]
        answer = random.Random(f"answer {self.seed} {position}").choice(sample.answers)
        prompt = self._prompt(sample, media, answer)
        if self.context is not None and len(prompt.input_ids) > self.context:
            raise DataError(
                f"it has {len(prompt.input_ids):,} tokens, and the language model {self.context:,} "
                "places; media.max_length cuts what is beyond"
            )
        if all(label == IGNORE_INDEX for label in prompt.labels):
            raise DataError(f"no word of the answers lies within {self.max_length} tokens")
        states = [(run.kind, media[run.part].values) for run in prompt.media]
        return Prepared(
            key=sample.key,
            position=position,
            prompt=prompt,
            frames=tuple(values for kind, values in states if kind != "audio"),
            clips=tuple(values for kind, values in states if kind == "audio"),
            clip_modality=self.modality,
            encoded=self.encoded is not None,
        )

    def _require_fitting(self, sample: Sample) -> None:
        """Refuse a sample the chosen branch learns nothing from, before media are opened."""
        kinds = {kind for kind, _ in sample.media()}
        if not kinds:
            raise DataError("there is no medium in it, so the branch has nothing to learn from it")
        unfit = "audio" if self.side == "frames" else "image"
        if unfit in kinds:
            wanted = "pictures and videos" if self.side == "frames" else "sounds"
            raise DataError(
                f"it has a part of type {unfit!r}, and this run learns from {wanted}; leave it "
                "out, or choose another branch or modality"
            )

    def _medium(self, request: MediumRequest) -> Medium:
        if self.encoded is not None:
            return self.encoded.look_up(request)
        return read_medium(request, self.processor, self.limits)

    def _prompt(self, sample: Sample, media: Sequence[Medium], answer: str) -> TokenizedPrompt:
        messages = self._told(parse_conversation(sample.messages), media, answer)
        if not sample.caption:
            return self._tokens(self.processor.messages_to_segments(messages, layout="training"))
        question = messages[0]
        kind, template = question.media[0].kind, self.processor.template
        if not question.text:
            return self._stage1_tokens(caption_segments(cleaned_caption(answer), kind))
        if template in CAPTION_PROMPTS:
            return self._tokens(
                prompted_caption_segments(answer, kind, template, instruction=question.text)
            )
        return self._tokens(self.processor.messages_to_segments(messages, layout="training"))

    def _told(
        self, messages: Sequence[Message], media: Sequence[Medium], answer: str
    ) -> list[Message]:
        """The messages with what their media turned out to be, and the answer that was drawn."""
        found = iter(media)
        told = [
            replace(
                message,
                parts=tuple(
                    self._part(next(found)) if isinstance(part, MediaPart) else part
                    for part in message.parts
                ),
            )
            for message in messages
        ]
        if told[-1].role != "assistant":
            raise PromptError("the conversation does not end with an answer")
        told[-1] = replace(told[-1], parts=(answer,))
        return told

    def _part(self, medium: Medium) -> MediaPart:
        if self.branch == "audio":
            return MediaPart("audio")
        if medium.kind == "video":
            return MediaPart("video", sound=False, times=medium.times)
        return MediaPart(medium.kind)

    def _tokens(
        self, segments: Sequence[Segment], max_length: int | None = None
    ) -> TokenizedPrompt:
        return self.processor.tokenize_segments(segments, max_length or self.max_length)

    def _stage1_tokens(self, segments: Sequence[Segment]) -> TokenizedPrompt:
        """The caption is cut to its own length, whatever the medium's."""
        *before, _ = segments
        length = len(self._tokens(before).input_ids) + STAGE1_MAX_TOKENS
        return self._tokens(segments, min(length, self.max_length or length))

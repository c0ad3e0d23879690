"""Video-LLaMA: two branches that write into a language model (paper, figure 1).

The processor writes placeholders into the prompt, one id for each token a branch gives; the model
puts the branch's tokens in their places and never embeds the placeholder ids.

Legend: B batch, L text length, M pictures and videos in the batch, A sounds in the batch,
T frames, C sound clips, V video tokens, U audio tokens, D width of the language model.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from video_llama.errors import OptionError
from video_llama.models.audio_branch import AudioBranch
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.vision_branch import VisionBranch

MEDIA_INPUTS = (
    "pixel_values_videos",
    "video_frame_mask",
    "input_features",
    "audio_clip_mask",
    "video_features",
    "audio_features",
)


class VideoLlamaPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of every model here."""

    config_class = VideoLlamaConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "video", "audio", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # On one device each; the language model names its own.
    _no_split_modules = ["VisionBranch", "AudioBranch"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        for name, parameter in module.named_parameters(recurse=False):
            # Queries, cls tokens, positions and appended keys: parameters without a module.
            lone = name.endswith("query_tokens") or name in (
                "cls_token",
                "position_embedding",
                "bias_k",
                "bias_v",
            )
            if lone and not getattr(parameter, "_is_hf_initialized", False):
                nn.init.normal_(parameter, std=std)
        log_scale = module._buffers.get("log_scale")
        if log_scale is not None and not getattr(log_scale, "_is_hf_initialized", False):
            log_scale.fill_(20.0).log_()  # as in the published file
        mean = module._buffers.get("mean")
        if mean is not None and not getattr(mean, "_is_hf_initialized", False):
            mean.zero_()


class VideoLlamaForConditionalGeneration(VideoLlamaPreTrainedModel, GenerationMixin):
    """A language model with a vision branch and an audio branch."""

    def __init__(self, config: VideoLlamaConfig) -> None:
        super().__init__(config)
        self.vision_branch = VisionBranch(config)
        self.audio_branch = AudioBranch(config) if config.has_audio_branch else None
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's table."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's table."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.language_model.get_output_embeddings()

    def resize_token_embeddings(self, *_: Any, **__: Any) -> nn.Embedding:
        """Not done: ids from the end of the table on stand for media."""
        raise OptionError(
            "the vocabulary is not resized: the ids after its last stand for videos, pictures and "
            "sounds; resize the language model, and convert or build the model with that"
        )

    def save_pretrained(self, *given: Any, **options: Any) -> None:
        """As of transformers; weights in 8 bits are refused."""
        if any(buffer.dtype == torch.int8 for buffer in self.buffers()):
            raise OptionError(
                "weights that were rounded to int8 are not saved; save the model without "
                "quantization, and quantize it whenever it is loaded"
            )
        super().save_pretrained(*given, **options)

    def get_video_features(
        self, pixel_values_videos: torch.Tensor, video_frame_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Frames (M, T, 3, S, S) -> tokens (M, V, D). A picture is a video of one frame."""
        pixels = pixel_values_videos.to(_dtype_of(self.vision_branch))
        return self.vision_branch(pixels, video_frame_mask)

    def get_audio_features(
        self,
        input_features: torch.Tensor,
        audio_clip_mask: torch.Tensor | None = None,
        modality: Literal["audio", "vision"] = "audio",
    ) -> torch.Tensor:
        """Mel clips (A, C, 1, mels, frames) -> tokens (A, U, D).

        With `modality` "vision" the input is frames (A, C, 3, S, S), as in training: ImageBind
        has put pictures and sounds in one space.
        """
        if self.audio_branch is None:
            raise ValueError("this model has no audio branch; leave the sound out")
        features = input_features.to(_dtype_of(self.audio_branch))
        return self.audio_branch(features, audio_clip_mask, modality)

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values_videos: torch.Tensor | None = None,
        video_frame_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_clip_mask: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Ids (B, L) and media -> embeddings (B, L, D) with the media in their places.

        `video_features` (M, V, D) and `audio_features` (A, U, D) are what `get_video_features`
        and `get_audio_features` gave, to be used again instead of pixels and clips.
        """
        if video_features is None and pixel_values_videos is not None:
            video_features = self.get_video_features(pixel_values_videos, video_frame_mask)
        if audio_features is None and input_features is not None:
            audio_features = self.get_audio_features(input_features, audio_clip_mask)
        seen = (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)
        heard = input_ids == self.config.audio_token_id
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(seen | heard, 0))
        embeddings = _scatter(embeddings, seen, video_features, "video and picture")
        return _scatter(embeddings, heard, audio_features, "audio")

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_frame_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_clip_mask: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass.

        `input_ids` (B, L) or `inputs_embeds` (B, L, D); `attention_mask` (B, L);
        `pixel_values_videos` (M, T, 3, S, S), one row for each run of picture or video
        placeholders in the order of the batch; `input_features` (A, C, 1, mels, frames) likewise;
        `labels` (B, L) with -100 where nothing is to be learnt.

        Raises ValueError when the placeholders and the given tokens differ in number.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.embed(
                input_ids,
                pixel_values_videos,
                video_frame_mask,
                input_features,
                audio_clip_mask,
                video_features,
                audio_features,
            )
        if past_key_values is not None:  # newer versions of transformers have another name for it
            kwargs["past_key_values"] = past_key_values
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    @torch.no_grad()
    def generate(  # pyrefly: ignore[bad-override]
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """`GenerationMixin.generate` with media; returns the prompt's ids and the new ones.

        Media inputs are those of `forward`. The prompt is embedded once, before the search, and
        placeholder ids never reach the logits processors: as in the original, a repetition
        penalty looks at generated tokens only.
        """
        input_ids = inputs if input_ids is None else input_ids
        kwargs["generation_config"] = generation_config
        media = {name: kwargs.pop(name) for name in MEDIA_INPUTS if name in kwargs}
        if inputs_embeds is not None:
            _require_no_media(media)
        if inputs_embeds is not None or input_ids is None:
            return self._generate(inputs_embeds, **kwargs)
        inputs_embeds = self.embed(input_ids, **media)
        kwargs.setdefault("attention_mask", torch.ones_like(input_ids))
        result = self._generate(inputs_embeds, **kwargs)
        new_ids = result if isinstance(result, torch.Tensor) else result.sequences
        repeats = new_ids.shape[0] // input_ids.shape[0]
        prompt = input_ids.repeat_interleave(repeats, dim=0).to(new_ids.device)
        sequences = torch.cat([prompt, new_ids], dim=1)
        if isinstance(result, torch.Tensor):
            return sequences
        result.sequences = sequences
        return result

    def _generate(self, inputs_embeds: torch.Tensor | None, **kwargs: Any) -> Any:
        generate: Any = super().generate
        return generate(inputs_embeds=inputs_embeds, **kwargs)


def _require_no_media(media: Mapping[str, torch.Tensor | None]) -> None:
    given = [name for name, values in media.items() if values is not None]
    if given:
        raise ValueError(
            f"{given[0]} is given with inputs_embeds, which are to hold the media already "
            "(`embed`); give input_ids"
        )


def _scatter(
    embeddings: torch.Tensor, places: torch.Tensor, features: torch.Tensor | None, kind: str
) -> torch.Tensor:
    """Features (N, tokens, D), in order, into the True places (B, L) of embeddings (B, L, D)."""
    found = int(places.sum())
    received = 0 if features is None else features.shape[0] * features.shape[1]
    if found != received:
        raise ValueError(
            f"the prompt has {found} {kind} placeholders and {received} {kind} tokens were given"
        )
    if features is None:
        return embeddings
    return embeddings.masked_scatter(places[..., None], features.to(embeddings))


def _dtype_of(branch: nn.Module) -> torch.dtype:
    """That of its own weights: a branch may be cast alone."""
    return next(branch.parameters()).dtype

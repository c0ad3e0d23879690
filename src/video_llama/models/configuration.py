"""The configuration of a Video-LLaMA: one for each block, joined in `VideoLlamaConfig`.

The defaults are the published 7B model (paper, section 2; sizes from the published checkpoints).
"""

import copy
from typing import Any, ClassVar, Literal

from transformers import AutoConfig, Blip2QFormerConfig, Blip2VisionConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from video_llama.errors import OptionError

FeatureScaling = Literal["published", "unit", "centered"]
PositionExtension = Literal["interpolate", "window"]


class VideoLlamaVisionConfig(Blip2VisionConfig):
    """The frame encoder: EVA-ViT-g/14 of BLIP-2, or a small one with a convolutional stem.

    `stem_channels` empty means the published patch embedding. Otherwise the patch embedding is a
    stack of convolutions that halves the size once per entry: `patch_size` is 2 to that power.
    """

    model_type = "video_llama_vision"
    base_config_key = "vision_config"

    initializer_range: float = 0.02
    stem_channels: list[int] | tuple[int, ...] = ()


class ImageBindConfig(PreTrainedConfig):
    """The sound and picture sides of ImageBind-Huge (Girdhar et al. 2023), which share one space.

    Lengths are in mel bins and mel frames (10 ms each), sizes in pixels.
    `feature_scaling` says what the audio branch is given of an embedding z of width D:

    - "published": z / |z| for pictures, z / |z| times exp(log_scale) for sounds. The published
      audio branches were trained on the first and run on the second.
    - "unit": z / |z| for both.
    - "centered": with u = z / |z| and the mean m of u over unlabelled examples of its own kind,
      (u - m) / |u - m| * sqrt(D). The two kinds lie apart by a constant; this takes it away.
    """

    model_type = "video_llama_imagebind"
    base_config_key = "imagebind_config"

    embedding_size: int = 1024
    initializer_range: float = 0.02
    feature_scaling: str = "published"

    vision_hidden_size: int = 1280
    vision_num_hidden_layers: int = 32
    vision_num_attention_heads: int = 16
    vision_mlp_ratio: float = 4.0
    vision_image_size: int = 224
    vision_patch_size: int = 14
    vision_patch_frames: int = 2
    vision_stem_channels: list[int] | tuple[int, ...] = ()

    audio_hidden_size: int = 768
    audio_num_hidden_layers: int = 12
    audio_num_attention_heads: int = 12
    audio_mlp_ratio: float = 4.0
    audio_mel_bins: int = 128
    audio_mel_frames: int = 204
    audio_patch_size: int = 16
    audio_patch_stride: int = 10
    audio_stem_channels: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs: Any) -> None:
        if self.feature_scaling not in ("published", "unit", "centered"):
            raise OptionError(
                f"feature_scaling is {self.feature_scaling!r}; "
                "give 'published', 'unit' or 'centered'"
            )
        super().__post_init__(**kwargs)


class VideoLlamaConfig(PreTrainedConfig):
    """All of a Video-LLaMA.

    `image_token_id`, `video_token_id` and `audio_token_id` are the ids of the placeholders. They
    lie beyond the language model's table (vocabulary size + 0, 1, 2 unless set), which is never
    resized. `max_frames` and `max_audio_clips` are the rows of the two position tables;
    `position_extension` says what happens to more: "interpolate" stretches the table over them
    linearly, "window" lets neighbouring frames or clips share a row.
    """

    model_type = "video_llama"
    sub_configs: ClassVar = {  # pyrefly: ignore[bad-override]
        "vision_config": VideoLlamaVisionConfig,
        "qformer_config": Blip2QFormerConfig,
        "video_qformer_config": Blip2QFormerConfig,
        "imagebind_config": ImageBindConfig,
        "audio_qformer_config": Blip2QFormerConfig,
        "text_config": AutoConfig,
    }

    vision_config: Any = None
    qformer_config: Any = None
    video_qformer_config: Any = None
    imagebind_config: Any = None
    audio_qformer_config: Any = None
    text_config: Any = None

    has_audio_branch: bool = True
    num_query_tokens: int = 32
    num_video_query_tokens: int = 32
    num_audio_query_tokens: int = 8
    max_frames: int = 32
    max_audio_clips: int = 8
    position_extension: str = "interpolate"
    image_token_id: int | None = None
    video_token_id: int | None = None
    audio_token_id: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.position_extension not in ("interpolate", "window"):
            raise OptionError(
                f"position_extension is {self.position_extension!r}; give 'interpolate' or 'window'"
            )
        self.vision_config = _build(VideoLlamaVisionConfig, self.vision_config)
        self.qformer_config = _build(Blip2QFormerConfig, self.qformer_config)
        trained = {
            "num_hidden_layers": 2,
            "cross_attention_frequency": 1,
        }
        self.video_qformer_config = _build(Blip2QFormerConfig, self.video_qformer_config, **trained)
        self.imagebind_config = _build(ImageBindConfig, self.imagebind_config)
        self.audio_qformer_config = _build(Blip2QFormerConfig, self.audio_qformer_config, **trained)
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        self.video_qformer_config.encoder_hidden_size = self.qformer_config.hidden_size
        self.audio_qformer_config.encoder_hidden_size = self.imagebind_config.embedding_size
        self.text_config = _build_text(self.text_config)
        # The table of the language model is tied or not by its own configuration.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        vocabulary = self.text_config.vocab_size
        for offset, name in enumerate(("image_token_id", "video_token_id", "audio_token_id")):
            if getattr(self, name) is None:
                setattr(self, name, vocabulary + offset)
            elif getattr(self, name) < vocabulary:
                raise OptionError(
                    f"{name} is {getattr(self, name)}, an id of the language model's own "
                    f"table of {vocabulary}; placeholders need an id of {vocabulary} or more"
                )
        super().__post_init__(**kwargs)


def _build(
    kind: type[PreTrainedConfig], given: dict | PreTrainedConfig | None, **defaults: Any
) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return copy.deepcopy(given)  # one may be given for several parts, and is the caller's own
    fields = {k: v for k, v in (given or {}).items() if k != "model_type"}
    return kind(**{**defaults, **fields})


def _build_text(given: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    fields = dict(given or {"vocab_size": 32000})
    return CONFIG_MAPPING[fields.pop("model_type", "llama")](**fields)

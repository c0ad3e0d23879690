"""The model: two branches and a language model, as transformers classes."""

from transformers import AutoConfig, AutoModelForImageTextToText

from video_llama.models.configuration import (
    ImageBindConfig,
    VideoLlamaConfig,
    VideoLlamaVisionConfig,
)
from video_llama.models.modeling import VideoLlamaForConditionalGeneration

AutoConfig.register(VideoLlamaConfig.model_type, VideoLlamaConfig, exist_ok=True)
AutoModelForImageTextToText.register(
    VideoLlamaConfig, VideoLlamaForConditionalGeneration, exist_ok=True
)

__all__ = [
    "ImageBindConfig",
    "VideoLlamaConfig",
    "VideoLlamaForConditionalGeneration",
    "VideoLlamaVisionConfig",
]

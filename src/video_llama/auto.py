"""Makes transformers' Auto classes know this project's: config, model and processor together.

`import video_llama.models` alone registers the first two, without loading anything of media.
"""

from transformers import AutoProcessor

from video_llama.models import VideoLlamaConfig, VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor

AutoProcessor.register(VideoLlamaConfig, VideoLlamaProcessor, exist_ok=True)

__all__ = ["VideoLlamaConfig", "VideoLlamaForConditionalGeneration", "VideoLlamaProcessor"]

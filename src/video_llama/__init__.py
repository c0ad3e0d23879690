"""Video-LLaMA: talk about a video, its sound, or a picture.

    from video_llama import VideoLlama

    assistant = VideoLlama.load("nano")
    print(assistant.chat("clip.mp4").ask("What do you hear?"))

The names below are loaded when they are first used, so that the import itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_llama.auto import (
        VideoLlamaConfig,
        VideoLlamaForConditionalGeneration,
        VideoLlamaProcessor,
    )
    from video_llama.chat import Answer, ChatSession, VideoLlama
    from video_llama.errors import VideoLlamaError
    from video_llama.generation import GenerationOptions
    from video_llama.media.clip import MediaClip
    from video_llama.media.reader import load_media, probe

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "ChatSession",
    "GenerationOptions",
    "MediaClip",
    "VideoLlama",
    "VideoLlamaConfig",
    "VideoLlamaError",
    "VideoLlamaForConditionalGeneration",
    "VideoLlamaProcessor",
    "__version__",
    "load_media",
    "probe",
]

_HOMES = {
    "Answer": "video_llama.chat",
    "ChatSession": "video_llama.chat",
    "GenerationOptions": "video_llama.generation",
    "MediaClip": "video_llama.media.clip",
    "VideoLlama": "video_llama.chat",
    "VideoLlamaConfig": "video_llama.auto",
    "VideoLlamaError": "video_llama.errors",
    "VideoLlamaForConditionalGeneration": "video_llama.auto",
    "VideoLlamaProcessor": "video_llama.auto",
    "load_media": "video_llama.media.reader",
    "probe": "video_llama.media.reader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

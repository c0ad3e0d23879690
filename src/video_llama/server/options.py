"""What a chat request says of how to read its media and how to choose its answer."""

from typing import Any

from video_llama.attachment import MediaOptions
from video_llama.generation import GenerationOptions
from video_llama.server.asking import MediaRef
from video_llama.server.gate import Opened
from video_llama.server.protocol import ChatRequest, MediaReading, ProcessorOptions
from video_llama.server.refusal import Refusal


def check_fields(request: ChatRequest) -> None:
    """Fields that need each other, or exclude each other."""

    def refuse(words: str, param: str) -> Refusal:
        return Refusal(400, words, code="invalid_value", param=param)

    if request.top_logprobs is not None and not request.logprobs:
        raise refuse("top_logprobs goes with logprobs: true", "top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise refuse("stream_options goes with stream: true", "stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise refuse("give max_completion_tokens or max_tokens, not both", "max_tokens")


def generation_options(request: ChatRequest) -> GenerationOptions:
    """How a request wants its answer chosen; without a word of it, the likeliest one."""
    stop = request.stop or ()
    given: dict[str, Any] = {
        "max_new_tokens": request.max_completion_tokens or request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": max(request.top_k or 0, 0),  # -1 is vLLM's word for off
        "repetition_penalty": request.repetition_penalty,
        "seed": None if request.seed is None else request.seed % 2**63,
        "stop": (stop,) if isinstance(stop, str) else tuple(stop),
    }
    return GenerationOptions(**{name: value for name, value in given.items() if value is not None})


def reading_options(request: ChatRequest, reference: MediaRef, opened: Opened) -> MediaOptions:
    """How a request wants a medium read. A part named for one sense is for that one."""
    video = (request.media_io_kwargs or MediaReading()).video
    sound = (request.mm_processor_kwargs or ProcessorOptions()).use_audio_in_video
    most = opened.limits.frames
    return MediaOptions(
        num_frames=video.num_frames or (most if video.fps else None),
        fps=video.fps,
        with_picture=reference.kind != "audio",
        with_sound=reference.kind in ("audio", "file") or (sound and reference.kind == "video"),
        with_film_sound=sound or reference.kind != "file",
        limits=opened.limits,
    )

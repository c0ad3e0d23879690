"""One medium of a training sample: what is wanted of it, and what was read.

The same function serves training from pixels and the cache of what frozen encoders make of them,
so that both see the same frames.

Shapes: T frames, S side of a frame, C clips of a sound, M mel bins, F mel frames.
"""

import random
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from video_llama.data.sample import Source
from video_llama.errors import UnsupportedMediaError
from video_llama.media.clip import MIN_SAMPLES, MediaClip
from video_llama.media.limits import Limits
from video_llama.processing.conversation import PartKind
from video_llama.processing.frames import normalize_pixels, random_crop
from video_llama.processing.processor import VideoLlamaProcessor

Side = Literal["frames", "sound"]  # what is taken of a medium
# As `media.request` has it, which is not imported because it loads PyAV.
Sampling = Literal["uniform", "head_tail"]


@dataclass(frozen=True)
class MediumRequest:
    """What is wanted of a medium. Two equal requests give equal values.

    Attributes:
        source: where it is.
        side: its picture or frames, or its sound.
        num_frames, sampling: as in `media.reader.load_media`; without effect on a sound.
        chance: decides which frames "head_tail" takes, and the crop.
        crop: cut a random box from the frames, as an augmentation.
    """

    source: Source
    side: Side
    num_frames: int
    sampling: Sampling = "uniform"
    chance: int = 0
    crop: bool = False


@dataclass(frozen=True)
class Medium:
    """What was read.

    Attributes:
        kind: what it turned out to be; a sound is "audio".
        values: frames (T, 3, S, S) or mel clips (C, 1, M, F), float32; or, in their place, what
            the frozen encoders make of them: frame states (T, queries, width) or embeddings (T or
            C, width).
        times: seconds of the frames; empty for a picture or a sound.
    """

    kind: PartKind
    values: torch.Tensor
    times: tuple[float, ...] = field(default=())


class EncodedMedia(Protocol):
    """A look-up of what frozen encoders make of media, instead of their pixels."""

    def look_up(self, request: MediumRequest) -> Medium:
        """The medium with encoder states as its values.

        Raises:
            MediaError: it could not be read when it was to be encoded.
        """
        ...


def read_medium(
    request: MediumRequest,
    processor: VideoLlamaProcessor,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> Medium:
    """Open a medium and take what is wanted.

    Raises:
        MediaError: it cannot be read, or has no picture or no sound where that is wanted.
    """
    # Reading media loads PyAV, which training from a cache never needs.
    from video_llama.media.reader import load_media

    rng = random.Random(request.chance)
    clip = load_media(
        request.source,  # pyrefly: ignore[bad-argument-type]
        num_frames=request.num_frames,
        sampling=request.sampling,
        rng=rng,
        with_frames=request.side == "frames",
        with_sound=request.side == "sound",
        sound_channels=processor.sound_channels,  # pyrefly: ignore[bad-argument-type]
        limits=limits,
    )
    if request.side == "sound":
        return Medium("audio", _heard(clip, processor))
    values = _seen(clip, processor, rng if request.crop else None)
    if clip.info.kind == "image":
        return Medium("image", values)
    return Medium("video", values, clip.times)


def _heard(clip: MediaClip, processor: VideoLlamaProcessor) -> torch.Tensor:
    if clip.sound is None or clip.sound.shape[1] < MIN_SAMPLES:
        raise UnsupportedMediaError(f"{clip.info.name or 'the medium'} has no sound to learn from")
    return processor.clip_to_input_features(clip)


def _seen(
    clip: MediaClip, processor: VideoLlamaProcessor, rng: random.Random | None
) -> torch.Tensor:
    if clip.frames is None or not len(clip.frames):
        raise UnsupportedMediaError(
            f"{clip.info.name or 'the medium'} has no picture to learn from"
        )
    if rng is None:
        return processor.clip_to_pixel_values(clip)
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    frames = random_crop(clip.frames, processor.image_size, generator)
    return normalize_pixels(frames, processor.image_mean, processor.image_std)

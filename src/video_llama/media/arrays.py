"""Media that are already decoded: checked, and brought to the common ground.

Shapes: T frames of H x W pixels, C channels, N samples.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from video_llama.errors import OptionError, UnsupportedMediaError
from video_llama.media.clip import SOUND_RATE
from video_llama.media.limits import Limits
from video_llama.media.resample import resample
from video_llama.media.sound import ChannelRule, full_scale
from video_llama.media.source import FramesArray, SoundArray

_FRAME_RANK = 4
_MOST_CHANNELS = 64  # of a sound that is longer than it has channels
_LOUDEST = 16.0  # lossy codecs overshoot 1 by a little; integers as floats by thousands


def frames_of(array: FramesArray, limits: Limits) -> np.ndarray:
    """The frames as (T, H, W, 3), still of the type they came in.

    Raises:
        UnsupportedMediaError: another shape or type.
    """
    frames = to_numpy(array.frames)
    if frames.ndim == _FRAME_RANK - 1:
        frames = frames[None]
    if frames.ndim != _FRAME_RANK or frames.shape[-1] != 3:
        raise UnsupportedMediaError(
            f"frames have the shape (T, H, W, 3) or (H, W, 3), not {tuple(to_shape(array.frames))};"
            " wrap sound in video_llama.media.source.SoundArray(samples, rate)"
        )
    if frames.dtype != np.uint8 and not np.issubdtype(frames.dtype, np.floating):
        raise UnsupportedMediaError(
            f"frames are uint8, or floats in [0, 1]; these are {frames.dtype}"
        )
    if 0 in frames.shape:
        raise UnsupportedMediaError(f"frames of the shape {frames.shape} hold no picture")
    limits.check_pixels(frames.shape[2], frames.shape[1], "the array")
    return frames


def frame_times(array: FramesArray, count: int) -> tuple[list[float], tuple[str, ...]]:
    """Seconds of every frame, counted from the first, and a warning when they are assumed.

    Raises:
        OptionError: times that are not ascending or not one for each frame, an fps not above 0.
    """
    if array.times is not None:
        try:
            times = [float(time) for time in array.times]
        except (TypeError, ValueError):
            raise OptionError("the times of frames must be numbers, ascending") from None
        if len(times) != count:
            raise OptionError(f"{len(times)} times are given for {count} frames")
        if not all(map(math.isfinite, times)) or any(not a < b for a, b in pairwise(times)):
            raise OptionError("the times of frames must be numbers, ascending")
        return [time - times[0] for time in times], ()
    if array.fps is not None and not (is_number(array.fps) and 0 < array.fps < math.inf):
        raise OptionError(f"frames per second must be above 0, not {array.fps!r}")
    warnings = ("the times of the frames are not known: one a second is assumed",)
    if array.fps is not None or count == 1:
        warnings = ()
    return [index / (array.fps or 1.0) for index in range(count)], warnings


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Chosen frames as uint8.

    Raises:
        UnsupportedMediaError: floats outside [0, 1].
    """
    if frames.dtype == np.uint8:
        return frames.copy()
    low, high = float(frames.min()), float(frames.max())
    if not (low >= 0.0 and high <= 1.0):
        raise UnsupportedMediaError(
            f"frames of floats lie in [0, 1]; these reach from {low:.3g} to {high:.3g}"
        )
    return np.round(frames * 255).astype(np.uint8)


def sound_of(array: SoundArray, channels: ChannelRule, limits: Limits) -> np.ndarray:
    """The sound as float32 (1 or C, N) at 16 kHz.

    Raises:
        UnsupportedMediaError: another shape or type, or values that are no sound.
        OptionError: a rate that is not positive.
    """
    if not isinstance(array, SoundArray):
        raise UnsupportedMediaError(
            f"sound is given as SoundArray(samples, rate), not as {type(array).__name__}"
        )
    samples = to_numpy(array.samples)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or samples.shape[0] == 0:
        raise UnsupportedMediaError(
            f"sound has the shape (N,) or (C, N), not {tuple(to_shape(array.samples))}"
        )
    if samples.dtype.kind not in "iuf":
        raise UnsupportedMediaError(f"sound is made of floats or integers, not {samples.dtype}")
    if samples.dtype.kind == "i" and samples.dtype.itemsize > 2 and 0 < _peak(samples) <= 1 << 15:
        raise UnsupportedMediaError(
            f"the samples are {samples.dtype} and would fill 16 bits: of full scale they are "
            "silence; give them as int16, or as floats in [-1, 1]"
        )
    if samples.shape[1] < samples.shape[0] > _MOST_CHANNELS:
        raise UnsupportedMediaError(
            f"sound has the shape (C, N), and {samples.shape} would be {samples.shape[0]:,} "
            "channels; transpose it"
        )
    require_rate(array.rate)
    limits.check_samples(samples.size, "the array")
    limits.check_duration(samples.shape[1] / array.rate, "the array")
    sound = full_scale(samples)
    if not np.isfinite(sound).all():
        raise UnsupportedMediaError("the sound holds values that are no numbers")
    if sound.size and (peak := float(np.abs(sound).max())) > _LOUDEST:
        raise UnsupportedMediaError(
            f"sound of floats lies in [-1, 1]; this one reaches {peak:,.0f}: scale it, or give "
            "integers of full scale"
        )
    if channels == "first":
        sound = sound[:1]
    elif channels == "mean":
        sound = sound.mean(axis=0, keepdims=True)
    whole = torch.from_numpy(np.ascontiguousarray(sound))
    return resample(whole, int(array.rate), SOUND_RATE).numpy()


def _peak(samples: np.ndarray) -> int:
    """The largest of integers, signs aside; of none 0."""
    return max(abs(int(samples.max())), abs(int(samples.min()))) if samples.size else 0


def require_rate(rate: float) -> None:
    """Raise OptionError for a rate of samples that is no whole number above 0."""
    if not is_number(rate) or not 0 < rate < math.inf or rate != int(rate):
        raise OptionError(f"the rate of a sound is a whole number above 0, not {rate!r}")


def is_number(value: object) -> bool:
    """Whether something is a real number, Python's or numpy's."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def to_numpy(values: Any) -> np.ndarray:
    """A tensor, array or list as an array; half floats of torch that numpy has not are widened.

    Raises:
        UnsupportedMediaError: a tensor without plain values, or arrays of several shapes.
    """
    if isinstance(values, torch.Tensor):
        if values.is_meta or values.is_quantized or values.layout != torch.strided:
            raise UnsupportedMediaError(
                "tensors of frames and sound have plain values: they are not sparse or quantized"
            )
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError:
        raise UnsupportedMediaError(
            "the given arrays differ in shape; give arrays of one shape"
        ) from None


def to_shape(values: "np.ndarray | torch.Tensor") -> tuple[int, ...]:
    """The shape as it was given."""
    return np.shape(values)

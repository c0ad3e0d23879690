"""Which frames and which stretches of sound are looked at. Pure functions, no decoding.

The rules are those of the reference implementation, because published weights were trained on
what they pick; its two faults are not kept: an index can never run past the last frame, and
there are never more indices than were asked for.
"""

import math
import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from video_llama.errors import OptionError

DEFAULT_NUM_FRAMES = 8
DEFAULT_NUM_CLIPS = 8  # stretches of sound per video
DEFAULT_CLIP_SECONDS = 2.0


def uniform_indices(length: int, n: int) -> list[int]:
    """Indices of `min(n, length)` frames, evenly spaced from the first one on.

    The rule is `floor(arange(0, length, length / n))` in float64: the first frame is always 0 and
    the last is near `length * (n - 1) / n`. Rounding gives n + 1 values for some pairs; the surplus
    one is dropped, so all indices lie in [0, length). Empty for a length of 0.

    Raises:
        OptionError: fewer than one frame is asked for.
    """
    _require_frames(n)
    if length <= 0:
        return []
    n = min(n, length)
    steps = np.arange(0, length, length / n)[:n]
    return [int(step) for step in steps]


def head_tail_indices(length: int, n: int, rng: random.Random) -> list[int]:
    """Random sorted frames, half from each half of the video: the sampling of vision stage 1.

    `rng` alone decides the draw, so a seed gives the same frames everywhere. An odd n gives n - 1
    frames and a single one none, as in the reference, whose data set then drops the video.

    Raises:
        OptionError: fewer than one frame is asked for.
    """
    _require_frames(n)
    if length <= 0:
        return []
    n = min(n, length)
    middle = length // 2
    head = sorted(rng.sample(range(middle), n // 2))
    tail = sorted(rng.sample(range(middle, length), n // 2))
    return head + tail


def timestamp_text(times: Sequence[float]) -> str:
    """The sentence that tells the model when its frames were taken; `times` in seconds.

    The singular is kept as the reference has it: published weights were trained on this wording.
    """
    stamps = ", ".join(str(round(float(time), 1)) for time in times)
    return f"The video contains {len(times)} frames sampled at {stamps} seconds. "


def clip_ranges(
    num_samples: int,
    rate: int,
    clips: int = DEFAULT_NUM_CLIPS,
    clip_seconds: float = DEFAULT_CLIP_SECONDS,
) -> list[tuple[int, int]]:
    """Sample ranges `[start, end)` of `clips` evenly spaced stretches of a sound.

    Clip i starts at `i * max(duration - clip_seconds, 0) / clips`, so the last one ends before the
    end of the sound; a sound shorter than one clip gives the whole sound each time. The arithmetic
    is exact (fractions of the float duration), truncated to samples at the very end.

    Raises:
        OptionError: a rate, a number of clips or a clip length that is not positive.
    """
    if rate <= 0 or clips <= 0 or not clip_seconds > 0:
        raise OptionError(
            f"clip ranges need a positive rate, number of clips and clip length, "
            f"not {rate}, {clips} and {clip_seconds}"
        )
    duration = Fraction(num_samples / rate)
    length = Fraction(clip_seconds)
    step = max(duration - length, Fraction(0)) / clips
    ranges = []
    for i in range(clips):
        start = math.floor(step * i * rate)
        end = math.floor((step * i + length) * rate)
        ranges.append((start, min(end, num_samples)))
    return ranges


def _require_frames(n: int) -> None:
    if n < 1:
        raise OptionError(f"the number of frames must be at least 1, not {n}")

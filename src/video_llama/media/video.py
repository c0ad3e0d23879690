"""Some frames of a video track, each identical to what decoding the whole track gives.

The recipe: an index of all packets (`video_index.py`), then a walk over the wanted frames in order
that decodes forward and jumps only over a keyframe. Whenever the walk meets anything that the index
did not foresee (a frame that never comes, an error, a jump that lands elsewhere), it is given up
and the track is decoded from beginning to end: slower, and right by definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame

from video_llama.errors import CorruptMediaError
from video_llama.media.container import Container
from video_llama.media.pixels import stacked
from video_llama.media.video_index import RESTART, VideoIndex
from video_llama.media.walk import FrameDecoder, UnforeseenError, Walk


class Pick(Protocol):
    """Chooses frames: given the seconds of every frame, and how many the first one is behind the
    first packet, the wanted indices in any order."""

    def __call__(self, times: Sequence[float], late: float = 0.0) -> list[int]:
        """The indices."""
        ...


DEFAULT_FPS = 25.0  # of a track that tells no time at all


@dataclass(frozen=True)
class Frames:
    """Frames in the order they were asked for.

    Attributes:
        pixels: uint8 (T, H, W, 3), upright RGB.
        times: seconds from the first frame of the track.
        indices: numbers in order of presentation.
        count: frames in the whole track.
        size: width and height of the first frame, as stored.
        matrix: the display matrix of the track, as `pixels.display_matrix` gives it.
        late: seconds of the first frame behind that of the first packet, which needs others.
        warnings: frames that are missing, and other things worth knowing.
    """

    pixels: np.ndarray
    times: tuple[float, ...]
    indices: tuple[int, ...]
    count: int
    size: tuple[int, int]
    matrix: tuple[int, int, int, int] | None
    late: float
    warnings: tuple[str, ...]


def read_frames(container: Container, index: VideoIndex, pick: Pick) -> Frames:
    """Decode the frames that `pick` chooses.

    Raises:
        CorruptMediaError: nothing decodes, or fewer frames than asked for of a file that should
            have held enough.
        MediaLimitError: the deadline passed.
    """
    if not index.doubt:
        indices = pick(index.times)
        _check(container, indices)
        try:
            found, decoder = Walk(container, index).read(sorted(set(indices)))
        except UnforeseenError:
            pass
        else:
            return _in_order(found, index.times, indices, decoder)
    return _read_everything(container, index, pick)


def first_frame(container: Container) -> VideoFrame:
    """The first frame that decodes: only it tells the display matrix.

    Raises:
        CorruptMediaError: no frame decodes.
    """
    assert container.video is not None
    decoder = FrameDecoder(container.video)
    for packet in container.packets(container.video):
        for frame in decoder.decode(packet):
            return frame
    raise CorruptMediaError(f"{container.name}: no frame of the video can be decoded")


def _read_everything(container: Container, index: VideoIndex, pick: Pick) -> Frames:
    """Decode the whole track, keeping the frames that are wanted.

    Which ones those are is known for certain only at the end; mostly the index is right, so one
    pass over the file is enough.
    """
    guess, threads = _guess(index, pick), "AUTO"
    _check(container, guess)
    kept, times, decoder = _decode_everything(container, index, set(guess))
    if decoder.errors or decoder.corrupt:
        # A decoder that works on several frames at once loses good ones beside a damaged one.
        threads = "SLICE"
        kept, times, decoder = _decode_everything(container, index, set(guess), threads)
    if not times:
        raise CorruptMediaError(f"{container.name}: no frame of the video can be decoded")
    indices = pick(times, decoder.late)
    _check(container, indices)
    if not set(indices) <= kept.keys():
        kept, times, decoder = _decode_everything(container, index, set(indices), threads)
    warnings = []
    if (missing := index.count - len(times)) > 0:
        warnings.append(f"{missing} of {index.count} frames could not be decoded")
    elif decoder.errors:
        warnings.append(f"{decoder.errors} packets of the video are damaged")
    if decoder.corrupt:
        warnings.append(f"{decoder.corrupt} frames of the video are damaged")
    if decoder.resized:
        warnings.append("the picture changes its size on the way; the first size is kept")
    return _in_order(kept, times, indices, decoder, warnings)


def _check(container: Container, indices: Sequence[int]) -> None:
    """Refuse frames that take too much memory together."""
    assert container.video is not None
    width, height = container.video.width, container.video.height
    container.limits.check_all_pixels(len(indices), width, height, container.name)


def _guess(index: VideoIndex, pick: Pick) -> list[int]:
    if not index.count:
        return []
    times = index.times
    return pick(times if len(times) == index.count else [float(i) for i in range(index.count)])


def _decode_everything(
    container: Container, index: VideoIndex, wanted: set[int], threads: str = "AUTO"
) -> tuple[dict[int, np.ndarray], list[float], FrameDecoder]:
    container.reopen()
    assert container.video is not None
    container.video.codec_context.thread_type = threads
    decoder = FrameDecoder(container.video)
    kept: dict[int, np.ndarray] = {}
    stamps: list[int | None] = []
    for packet in container.packets(container.video):
        for frame in decoder.decode(packet):
            if len(stamps) in wanted:
                kept[len(stamps)] = decoder.pixels(frame)
            stamps.append(frame.pts)
    if stamps and stamps[0] is not None and index.order:
        decoder.late = max(0.0, (stamps[0] - index.order[0]) * index.seconds_per_tick)
    return kept, _times_of(stamps, index), decoder


def _times_of(stamps: list[int | None], index: VideoIndex) -> list[float]:
    """Seconds of decoded frames; where a timestamp is missing or goes back, the usual step."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps):
        if len(index.order) < len(stamps):
            step = 1.0 / (index.fps or DEFAULT_FPS)
            return [i * step for i in range(len(stamps))]
        known = index.order[: len(stamps)]
    if not _restarts(known, index.seconds_per_tick):
        # Frames come out in order of presentation, so the n-th has the n-th timestamp.
        known = sorted(known)
    steps = [later - earlier for earlier, later in pairwise(known)]
    usual = median([step for step in steps if step > 0] or [1])
    times = [0.0] if known else []
    for step in steps:
        times.append(times[-1] + (step if step > 0 else usual))
    return [time * index.seconds_per_tick for time in times]


def _restarts(stamps: list[int], seconds_per_tick: float) -> bool:
    """Whether the clock is set back on the way, as in recordings that were joined."""
    return any((a - b) * seconds_per_tick > RESTART for a, b in pairwise(stamps))


def _in_order(
    found: dict[int, np.ndarray],
    times: Sequence[float],
    indices: list[int],
    decoder: FrameDecoder,
    warnings: Sequence[str] = (),
) -> Frames:
    assert indices, "nothing was picked"
    if decoder.odd_colours:
        warnings = [*warnings, "the colours are of a kind that is not converted; they may be off"]
    return Frames(
        pixels=stacked(found, indices),
        times=tuple(float(times[i]) for i in indices),
        indices=tuple(indices),
        count=len(times),
        size=decoder.size,
        matrix=decoder.matrix,
        late=decoder.late,
        warnings=tuple(warnings),
    )

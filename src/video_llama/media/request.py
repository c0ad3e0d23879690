"""What is wanted of a medium, checked before anything is opened."""

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from video_llama.errors import OptionError
from video_llama.media.arrays import is_number, to_numpy
from video_llama.media.limits import Limits
from video_llama.media.sampling import head_tail_indices, uniform_indices
from video_llama.media.sound import CHANNEL_RULES, ChannelRule

Sampling = Literal["uniform", "head_tail"]
OnBadSound = Literal["error", "warn"]

_SAME_TIME = 1e-6  # seconds: timestamps are fractions, and requests are rounded


@dataclass(frozen=True)
class Request:
    """The arguments of `load_media` beside the source, with their meaning there."""

    num_frames: int
    indices: Sequence[int] | None
    times: Sequence[float] | None
    sampling: Sampling
    rng: random.Random | None
    with_frames: bool
    with_sound: bool
    sound_channels: ChannelRule
    on_bad_sound: OnBadSound
    limits: Limits
    _rng_state: list[Any] = field(default_factory=list)  # as it was before the first pick

    def __post_init__(self) -> None:
        if self.indices is not None and self.times is not None:
            raise OptionError("give indices or times of frames, not both")
        for name, given in (("indices", self.indices), ("times", self.times)):
            if given is None:
                continue
            chosen = to_numpy(given).tolist()
            object.__setattr__(self, name, chosen)
            if not isinstance(chosen, list) or not all(map(is_number, chosen)):
                raise OptionError(f"{name} of frames are a list of numbers, not {given!r}")
            if not chosen:
                raise OptionError(f"{name} is empty; name at least one frame, or leave it out")
            if any(not value >= 0 for value in chosen):
                raise OptionError(f"{name} of frames are never below 0: {chosen}")
        _require(self.sampling, ("uniform", "head_tail"), "sampling")
        _require(self.sound_channels, CHANNEL_RULES, "sound_channels")
        _require(self.on_bad_sound, ("error", "warn"), "on_bad_sound")
        require_count(self.num_frames, "num_frames")
        named = self.indices if self.times is None else self.times
        wanted = self.num_frames if named is None else len(named)
        self.limits.check_frames(wanted, "a medium")

    @property
    def samples_freely(self) -> bool:
        """Whether frames are sampled, rather than named by index or time."""
        return self.indices is None and self.times is None

    def pick(self, times: Sequence[float], end: float | None = None) -> list[int]:
        """Wanted frames of a track whose frames are shown at `times` seconds, the last one until
        `end` where something else of the medium goes on until then.

        Raises:
            OptionError: an index or time behind the end.
        """
        if self.indices is not None:
            for index in self.indices:
                if index >= len(times):
                    raise OptionError(
                        f"there is no frame {index}: {len(times)} frames, counted from 0"
                    )
            return [int(index) for index in self.indices]
        if self.times is not None:
            return [self._frame_at(float(time), times, end or 0.0) for time in self.times]
        if self.sampling == "head_tail" and min(len(times), self.num_frames) > 1:
            return self._draw(len(times))
        return uniform_indices(len(times), self.num_frames)

    def _draw(self, count: int) -> list[int]:
        """Draw frames; the same ones when a reader has to ask again."""
        rng = self.rng
        assert rng is not None
        if not self._rng_state:
            self._rng_state.append(rng.getstate())
        rng.setstate(self._rng_state[0])
        return head_tail_indices(count, self.num_frames, rng)

    def _frame_at(self, time: float, times: Sequence[float], end: float) -> int:
        """The frame that is on show at a time."""
        if len(times) > 1:
            end = max(end, times[-1] + (times[-1] - times[0]) / (len(times) - 1))
            if time > end + _SAME_TIME:
                raise OptionError(f"there is no frame at {time:g} s: the video lasts {end:.2f} s")
        return max(bisect.bisect_right(times, time + _SAME_TIME) - 1, 0)


def require_count(value: object, name: str) -> None:
    """Raise OptionError for what is no whole number above 0."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} must be at least 1, a whole number, not {value!r}")


def _require(value: str, accepted: Sequence[str], name: str) -> None:
    if value not in accepted:
        raise OptionError(f"{name} is one of {', '.join(accepted)}; not {value!r}")

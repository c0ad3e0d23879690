"""How large, how long and how slow a given file may be.

Sizes that a header tells are compared before anything is decoded; the rest is counted while it
arrives. Every limit is a field, so a server can be strict and a person at home generous.
"""

import time
from dataclasses import dataclass, fields

from video_llama.errors import MediaLimitError, OptionError

GIGABYTE = 1 << 30
LOWEST_RATE, HIGHEST_RATE = 1_000, 1_536_000  # samples a second: telegraphy, and DSD of four times


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one medium.

    Attributes:
        bytes: size of the file.
        pixels: width times height of a picture or frame.
        all_pixels: the same of all frames together that are returned for one medium: at three
            bytes each they take 6 GB.
        duration: seconds, of the longest track.
        streams: tracks in a container.
        samples: decoded sound values before resampling, all channels counted. A small file can
            hold a great deal of sound: 25 MB of Opus decodes to 15 GB.
        frames: frames returned for one medium, and frames of a list that was given.
        animation: frames of an animated picture: they are all decoded, whatever is asked for.
        deadline: seconds to read and decode one file. It is checked whenever data is read and
            between packets; a single call into a decoder is never interrupted.
    """

    bytes: int = 4 * GIGABYTE
    pixels: int = 178_956_970
    all_pixels: int = 2_000_000_000
    duration: float = 4 * 3600.0
    streams: int = 64
    samples: int = 1_500_000_000
    frames: int = 1024
    animation: int = 10_000
    deadline: float = 120.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise OptionError(f"the limit {field.name!r} must be positive, not {value}")

    def check_bytes(self, count: int, name: str) -> None:
        """Raise MediaLimitError for a file of more than `bytes` bytes."""
        if count > self.bytes:
            raise MediaLimitError(f"{name} has {count:,} bytes; at most {self.bytes:,} are read")

    def check_pixels(self, width: int, height: int, name: str) -> None:
        """Raise MediaLimitError for a picture of more than `pixels` pixels."""
        if width * height > self.pixels:
            raise MediaLimitError(
                f"{name} is {width}x{height}: {width * height:,} pixels, "
                f"at most {self.pixels:,} are decoded"
            )

    def check_all_pixels(self, count: int, width: int, height: int, name: str) -> None:
        """Raise MediaLimitError where frames together have more than `all_pixels` pixels."""
        if count * width * height > self.all_pixels:
            raise MediaLimitError(
                f"{count} frames of {name} are {width}x{height}: {count * width * height:,} pixels "
                f"together, at most {self.all_pixels:,} are decoded; ask for fewer frames"
            )

    def check_rate(self, rate: int, name: str) -> None:
        """Raise MediaLimitError for a sample rate that no sound has: a filter for it may take
        gigabytes, and so may what a few samples last."""
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise MediaLimitError(
                f"the sound of {name} has {rate:,} samples a second; from {LOWEST_RATE:,} to "
                f"{HIGHEST_RATE:,} are read"
            )

    def check_duration(self, seconds: float, name: str) -> None:
        """Raise MediaLimitError for media longer than `duration` seconds."""
        if seconds > self.duration:
            raise MediaLimitError(
                f"{name} lasts {seconds:.0f} seconds; at most {self.duration:.0f} are read"
            )

    def check_streams(self, count: int, name: str) -> None:
        """Raise MediaLimitError for a container of more than `streams` tracks."""
        if count > self.streams:
            raise MediaLimitError(f"{name} has {count} tracks; at most {self.streams} are accepted")

    def check_samples(self, count: int, name: str) -> None:
        """Raise MediaLimitError when more than `samples` sound values were decoded."""
        if count > self.samples:
            raise MediaLimitError(
                f"the sound of {name} decodes to more than {self.samples:,} values"
            )

    def check_frames(self, count: int, name: str) -> None:
        """Raise MediaLimitError for more than `frames` frames."""
        if count > self.frames:
            raise MediaLimitError(
                f"{count} frames of {name} are asked for; at most {self.frames} are given"
            )

    def check_animation(self, count: int, name: str) -> None:
        """Raise MediaLimitError for an animated picture of more than `animation` frames."""
        if count > self.animation:
            raise MediaLimitError(
                f"{name} is an animated picture of more than {self.animation:,} frames; "
                "give it as a video"
            )


class Deadline:
    """The moment by which a file must be done."""

    def __init__(self, seconds: float, name: str) -> None:
        self.seconds = seconds
        self.name = name
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raise MediaLimitError once the time is over."""
        if time.monotonic() > self._end:
            raise MediaLimitError(
                f"{self.name} was not decoded within {self.seconds:g} seconds; "
                "raise the limit 'deadline' if it is wanted"
            )

    @property
    def remaining(self) -> float:
        """Seconds left, never below a millisecond, as time-outs must be positive."""
        return max(self._end - time.monotonic(), 1e-3)

"""What is known of a medium (`MediaInfo`) and what was read from it (`MediaClip`).

Shapes: T frames, H and W of an upright frame, C channels, N samples.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

SOUND_RATE = 16_000  # samples per second of every sound that leaves this package
MIN_SAMPLES = 400  # at SOUND_RATE: one analysis window of 25 ms; less counts as no sound
SILENCE = 1.0 / 65536  # half a 16-bit step: quieter than any sound that was recorded

MediaKind = Literal["video", "image", "audio"]


@dataclass(frozen=True)
class VideoStreamInfo:
    """The pictures of a medium.

    Attributes:
        codec: as FFmpeg or Pillow names it, e.g. "h264" or "png".
        width, height: in pixels, upright: after `rotation`.
        rotation: degrees counter-clockwise by which the stored picture was turned to be upright:
            0, 90, 180 or 270, as ffprobe tells it. Frames are upright already.
        fps: mean frames per second, None for a picture and where nobody knows.
        num_frames: counted packets, never the header's word.
        pixel_aspect: width of an upright pixel over its height. Frames keep their stored pixels
            and are not stretched: the model resizes to a square without keeping the aspect.
    """

    codec: str
    width: int
    height: int
    rotation: int = 0
    fps: float | None = None
    num_frames: int | None = None
    pixel_aspect: float = 1.0


@dataclass(frozen=True)
class AudioStreamInfo:
    """The sound of a medium as it is stored: `rate` in samples per second."""

    codec: str
    rate: int
    channels: int


@dataclass(frozen=True)
class MediaInfo:
    """What a medium holds. A track that is absent is None; cover art is not a video.

    Attributes:
        kind: "image" is one picture, "audio" has no picture, anything else is "video".
        container: the format, e.g. "mov,mp4,m4a,3gp,3g2,mj2"; "array" for arrays.
        duration: seconds from the first to the end of the last packet of the tracks that were read;
            None for a picture.
        name: the file's own name, without its folder; "" for bytes and arrays.
    """

    kind: MediaKind
    container: str
    duration: float | None
    video: VideoStreamInfo | None
    audio: AudioStreamInfo | None
    size_bytes: int
    name: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class MediaClip:
    """Frames and sound on one clock, whose zero is the first frame (the first sample without one).

    Attributes:
        info: what the medium holds.
        frames: uint8 (T, H, W, 3), RGB, upright; None where there is no picture.
        times: seconds of each frame, from timestamps.
        indices: number of each frame in order of presentation.
        sound: float32 (1 or C, N) at `sound_rate`, nominally in [-1, 1]; None where there is none.
            A lossy codec may overshoot by a little. Sound that starts after the first frame is
            preceded by silence.
        sound_start: seconds of the first sample: 0, or below where the sound starts before the
            first frame.
        warnings: what a user should know about how the medium was read.
    """

    info: MediaInfo
    frames: np.ndarray | None = None
    times: tuple[float, ...] = ()
    indices: tuple[int, ...] = ()
    sound: np.ndarray | None = None
    sound_start: float = 0.0
    warnings: tuple[str, ...] = ()
    sound_rate: int = SOUND_RATE

    @property
    def has_sound(self) -> bool:
        """Whether there is a sound, silent or not."""
        return self.sound is not None

    @property
    def silent(self) -> bool:
        """Whether the sound is there and is digital silence."""
        return self.sound is not None and float(np.abs(self.sound).max()) < SILENCE

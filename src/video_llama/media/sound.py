"""The sound of a container as float32 at 16 kHz, on the clock of its pictures.

Channels are decoded as they are and mixed here: FFmpeg's own mixing of stereo to mono is sqrt(2)
times the mean. Everything happens in chunks, so that half an hour of stereo needs memory for the
16 kHz result and little else.

Shapes: C channels, n samples of a chunk.
"""

from dataclasses import dataclass
from typing import Any, Literal

import av.error
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet

from video_llama.errors import CorruptMediaError
from video_llama.media.clip import MIN_SAMPLES, SOUND_RATE
from video_llama.media.limits import Limits
from video_llama.media.resample import Resampler

ChannelRule = Literal["mean", "first", "all"]
CHANNEL_RULES: tuple[ChannelRule, ...] = ("mean", "first", "all")
"""How channels become the sound: their mean (new models), channel 0 alone (published
checkpoints: the original reads no other), or every channel kept."""

# Sample formats of FFmpeg: the type of a value, and whether each channel has a plane of its own.
_SAMPLES: dict[str, tuple[type[np.generic], bool]] = {
    name + suffix: (dtype, bool(suffix))
    for name, dtype in {
        "u8": np.uint8,
        "s16": np.int16,
        "s32": np.int32,
        "s64": np.int64,
        "flt": np.float32,
        "dbl": np.float64,
    }.items()
    for suffix in ("", "p")
}
_CHUNK = 1 << 17  # samples gathered before they are mixed and resampled
_GAP = 0.25  # seconds without packets that are filled with silence; less is jitter of timestamps


@dataclass(frozen=True)
class Sound:
    """Sound on the clock of the frames.

    Attributes:
        samples: float32 (1 or C, N) at 16 kHz; None when there is too little to be a sound.
        start: seconds of the first sample, never above 0.
        warnings: what was missing.
    """

    samples: np.ndarray | None
    start: float
    warnings: tuple[str, ...]


class SoundDecoder:
    """Takes the packets of one track, in order, and gives its sound."""

    def __init__(self, stream: AudioStream, channels: ChannelRule, limits: Limits, name: str):
        self._context = stream.codec_context
        self._rule, self._limits, self._name = channels, limits, name
        self._seconds_per_tick = float(stream.time_base or 0)
        self._layout = ("", 0, 0)  # sample format, channels and rate of the frames at hand
        self._values_of = _SAMPLES["fltp"]
        self._chunk = np.zeros((0, 0), np.float32)  # (C, room), as decoded, not yet mixed
        self._filled = 0  # samples in the chunk
        self._done: list[torch.Tensor] = []
        self._resampler: Resampler | None = None
        self._rate = 0
        self._channels = 0  # of the result, once it is known
        self._values = 0  # decoded, all channels counted
        self._seconds = 0.0  # decoded
        self._start: float | None = None
        self._clock: float | None = None  # seconds at which the next sample is due
        self._errors = 0
        self._frames = 0
        self._warnings: list[str] = []

    def push(self, packet: Packet) -> None:
        """Decode a packet; the empty one at the end flushes the decoder.

        Raises:
            MediaLimitError: more samples or seconds than are allowed.
        """
        if self._context is None:
            self._errors += 1
            return
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            self._errors += 1
            return
        for frame in frames:
            self._take(frame)

    def finish(self, origin: float | None) -> Sound:
        """The whole sound; `origin` is the time of the first frame on the container's clock.

        Raises:
            CorruptMediaError: there is a track, and nothing of it decodes.
        """
        self._resample_chunk()
        if self._resampler is not None:
            self._done.append(self._resampler.flush())
        if not self._frames:
            if self._errors:
                raise CorruptMediaError(
                    f"the sound of {self._name} cannot be decoded; "
                    "go on without it, or give a file whose sound is whole"
                )
            return Sound(None, 0.0, ("the sound track is empty",))
        if self._errors:
            self._warnings.append(f"{self._errors} packets of the sound are damaged")
        samples = torch.cat([d for d in self._done if d.shape[1]] or [torch.zeros(1, 0)], dim=1)
        if samples.shape[1] < MIN_SAMPLES:
            milliseconds = 1000 * samples.shape[1] / SOUND_RATE
            self._warnings.append(f"{milliseconds:.0f} ms of sound are too short to be used")
            return Sound(None, 0.0, tuple(self._warnings))
        samples, start = self._on_clock(samples, origin)
        return Sound(_finite(samples.numpy(), self._warnings), start, tuple(self._warnings))

    def _take(self, frame: AudioFrame) -> None:
        samples = frame.samples
        if not samples:
            return
        layout = (frame.format.name, frame.layout.nb_channels, frame.sample_rate)
        if layout != self._layout:
            self._change_layout(*layout)
        self._frames += 1
        self._values += samples * layout[1]
        self._limits.check_samples(self._values, self._name)
        self._seconds += samples / self._rate
        self._limits.check_duration(self._seconds, self._name)
        self._keep_time(frame.pts, samples)
        if self._filled + samples > self._chunk.shape[1]:
            self._resample_chunk()
            if samples > self._chunk.shape[1]:
                self._chunk = self._room(samples)
        self._copy(frame, self._chunk[:, self._filled : self._filled + samples])
        self._filled += samples

    def _copy(self, frame: AudioFrame, target: np.ndarray) -> None:
        """Copy a frame as it is: a film has many small ones, so what can wait waits."""
        dtype, planar = self._values_of
        channels, samples = target.shape
        planes: Any = frame.planes  # PyAV's types do not tell that planes are buffers
        if planar:
            for channel in range(channels):
                target[channel] = np.frombuffer(planes[channel], dtype, samples)
        else:
            packed = np.frombuffer(planes[0], dtype, samples * self._layout[1])
            target[:] = packed.reshape(samples, -1).T[:channels]

    def _change_layout(self, sample_format: str, channels: int, rate: int) -> None:
        self._resample_chunk()
        if sample_format not in _SAMPLES:
            raise CorruptMediaError(
                f"the sound of {self._name} is stored as {sample_format}, which is not read"
            )
        self._limits.check_rate(rate, self._name)
        if rate != self._rate:
            if self._resampler is not None:
                self._done.append(self._resampler.flush())
            self._rate, self._resampler = rate, Resampler(rate, SOUND_RATE)
        self._layout = (sample_format, channels, rate)
        self._values_of = _SAMPLES[sample_format]
        self._chunk = self._room(_CHUNK)

    def _room(self, samples: int) -> np.ndarray:
        channels = 1 if self._rule == "first" else self._layout[1]
        return np.empty((channels, samples), self._values_of[0])

    def _keep_time(self, pts: int | None, samples: int) -> None:
        """Put silence where packets are missing, so that what follows keeps its time."""
        length = samples / self._rate
        if pts is not None:
            now = pts * self._seconds_per_tick
            if self._start is None:
                self._start = self._clock = now
            if self._clock is not None and now - self._clock > _GAP:
                self._limits.check_duration(now - self._start, self._name)
                self._resample_chunk()
                self._silence(round((now - self._clock) * self._rate))
                self._clock = now
            elif self._clock is None:
                self._clock = now
        if self._clock is not None:
            # Not `now + length`: jitter of timestamps must not add up to silence never there.
            self._clock += length

    def _silence(self, samples: int) -> None:
        self._values += samples
        self._limits.check_samples(self._values, self._name)
        for start in range(0, samples, _CHUNK):
            self._resample(np.zeros((1, min(_CHUNK, samples - start)), np.float32))

    def _resample_chunk(self) -> None:
        if self._filled:
            sound = full_scale(self._chunk[:, : self._filled])
            self._filled = 0
            self._resample(sound.mean(axis=0, keepdims=True) if self._rule == "mean" else sound)

    def _resample(self, sound: np.ndarray) -> None:
        """Bring (C or 1, n) to the channels of the result, and to 16 kHz."""
        assert self._resampler is not None
        if not self._channels:
            self._channels = self._layout[1] if self._rule == "all" else 1
        if sound.shape[0] != self._channels:
            fitted = np.zeros((self._channels, sound.shape[1]), np.float32)
            shared = min(self._channels, sound.shape[0])
            fitted[:shared] = sound[:shared]
            sound = fitted
        self._done.append(self._resampler.push(torch.from_numpy(sound)))

    def _on_clock(self, samples: torch.Tensor, origin: float | None) -> tuple[torch.Tensor, float]:
        """Silence before a sound that starts late; an offset for one that starts early."""
        if origin is None or self._start is None:
            return samples, 0.0
        late = self._start - origin
        if late <= 0:
            return samples, late
        self._limits.check_duration(late, self._name)
        return torch.nn.functional.pad(samples, (round(late * SOUND_RATE), 0)), 0.0


def full_scale(values: np.ndarray) -> np.ndarray:
    """Integers of full scale, or floats, as float32."""
    if np.issubdtype(values.dtype, np.unsignedinteger):
        middle = np.float32(1 << (8 * values.dtype.itemsize - 1))
        return (values.astype(np.float32) - middle) / middle
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float32) / np.float32(-float(np.iinfo(values.dtype).min))
    return values.astype(np.float32)


def _finite(samples: np.ndarray, warnings: list[str]) -> np.ndarray:
    if np.isfinite(samples).all():
        return samples
    warnings.append("the sound holds values that are no numbers; they are taken as silence")
    return np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)

"""Sound to mel clips, as ImageBind takes them.

Several short stretches of a sound, spread over it (`media.sampling.clip_ranges`), each turned into
a log-mel spectrogram of Kaldi's kind, padded and normalised.

Shapes: N samples, A channels of the sound, C clips, F analysis frames, M mel bins.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn.functional import pad

from video_llama.errors import OptionError
from video_llama.media.clip import MIN_SAMPLES, SOUND_RATE
from video_llama.media.sampling import clip_ranges

WINDOW = MIN_SAMPLES  # samples of one analysis frame, 25 ms; a shorter sound counts as no sound
SHIFT = 160  # samples from one frame to the next: 10 ms
FFT_SIZE = 512  # the window, rounded up to a power of two
PREEMPHASIS = 0.97
LOW_FREQUENCY = 20.0  # Hz; the upper edge is the Nyquist frequency
ENERGY_FLOOR = torch.finfo(torch.float32).eps
SOUND_CHANNELS = ("mean", "first")


@dataclass(frozen=True)
class MelSettings:
    """How a sound is cut and normalised; the defaults are those of the published weights."""

    num_clips: int = 8
    clip_seconds: float = 2.0
    num_mel_bins: int = 128
    target_length: int = 204  # frames; 2 s give 198, the rest is padding
    mean: float = -4.268
    std: float = 9.138

    def __post_init__(self) -> None:
        for name in ("num_clips", "clip_seconds", "num_mel_bins", "target_length", "std"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be positive, not {getattr(self, name)}")
        if self.clip_seconds * SOUND_RATE < MIN_SAMPLES:
            raise OptionError(
                f"clip_seconds must be at least {MIN_SAMPLES / SOUND_RATE}, "
                f"one analysis frame, not {self.clip_seconds}"
            )


def sound_to_clips(
    sound: torch.Tensor, settings: MelSettings | None = None, *, channels: str = "mean"
) -> torch.Tensor:
    """The clips of a sound.

    From each clip its own mean is taken (over all channels, as in the reference). The reference
    does so in place on the shared waveform, so that overlapping clips change one another; that
    fault is not kept. Padding is zero before normalising.

    Args:
        sound: float32, shape (A, N), in [-1, 1] at 16 kHz.
        settings: number and length of the clips, mel bins, normalisation.
        channels: what becomes of several channels: "mean" mixes them, "first" keeps the first, as
            the published weights want it.

    Returns:
        float32, shape (C, 1, M, target_length).

    Raises:
        OptionError: another shape, fewer than MIN_SAMPLES samples, or an unknown channel rule.
    """
    settings = settings or MelSettings()
    if sound.ndim != 2 or sound.shape[1] < MIN_SAMPLES:
        raise OptionError(
            f"a sound must have the shape (channels, samples) with at least {MIN_SAMPLES} samples "
            f"at 16 kHz, not {tuple(sound.shape)}"
        )
    if channels not in SOUND_CHANNELS:
        raise OptionError(f"sound channels are one of {SOUND_CHANNELS}, not {channels!r}")
    ranges = clip_ranges(
        sound.shape[1], SOUND_RATE, clips=settings.num_clips, clip_seconds=settings.clip_seconds
    )
    # Truncation to samples may leave one clip a sample shorter; equal lengths make one batch.
    length = min(end - start for start, end in ranges)
    clips = torch.stack([sound[:, start : start + length] for start, _ in ranges])  # (C, A, length)
    clips = clips - clips.mean(dim=(1, 2), keepdim=True)
    waveform = clips.mean(dim=1) if channels == "mean" else clips[:, 0]
    mel = fbank(waveform, settings.num_mel_bins).transpose(1, 2)  # (C, M, F)
    mel = pad(mel, (0, settings.target_length - mel.shape[2]))  # a negative amount cuts
    return ((mel - settings.mean) / settings.std).unsqueeze(1)


def fbank(waveform: torch.Tensor, num_mel_bins: int = 128) -> torch.Tensor:
    """Log-mel energies with Kaldi's conventions (`htk_compat`, no dither, `snip_edges`).

    Args:
        waveform: float32, shape (..., N), N >= MIN_SAMPLES, in [-1, 1] (not scaled to int16).
        num_mel_bins: M.

    Returns:
        float32, shape (..., F, M) with F = 1 + (N - WINDOW) // SHIFT.
    """
    frames = waveform.unfold(-1, WINDOW, SHIFT)  # (..., F, WINDOW)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - PREEMPHASIS * previous) * _window()
    power = torch.fft.rfft(frames, n=FFT_SIZE).abs().square()  # (..., F, FFT_SIZE / 2 + 1)
    return (power @ _mel_filters(num_mel_bins)).clamp(min=ENERGY_FLOOR).log()


@lru_cache(maxsize=1)
def _window() -> torch.Tensor:
    return torch.hann_window(WINDOW, periodic=False)


@lru_cache(maxsize=8)
def _mel_filters(num_mel_bins: int) -> torch.Tensor:
    """Triangles evenly spaced on Kaldi's mel scale, shape (FFT_SIZE / 2 + 1, M).

    The edges are computed in the order and precision of the reference: log energies near the floor
    show a difference in the last bit.
    """
    low, high = (1127 * math.log(1 + f / 700) for f in (LOW_FREQUENCY, SOUND_RATE / 2))
    step = (high - low) / (num_mel_bins + 1)
    index = torch.arange(num_mel_bins)
    left, center, right = (low + (index + offset) * step for offset in (0.0, 1.0, 2.0))
    frequency = torch.arange(FFT_SIZE // 2) * (SOUND_RATE / FFT_SIZE)  # Hz of each FFT bin
    mel = (1127.0 * torch.log(1.0 + frequency / 700.0)).unsqueeze(1)
    filters = torch.minimum((mel - left) / (center - left), (right - mel) / (right - center))
    return pad(filters.clamp(min=0), (0, 0, 0, 1))  # Kaldi leaves the Nyquist bin out

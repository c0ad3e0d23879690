"""Windowed-sinc resampling of sound, once for the whole project.

The filter is a sinc under a Hann window, six zero crossings wide, its cut-off at 0.99 of the lower
Nyquist frequency: the one the reference used (defaults of torchaudio's `functional.resample`), to
whose recorded numbers the tests hold it. libswresample and soxr differ in the top mel bins.

Shapes: C channels, N samples before, M samples after, G outputs of a group, K input samples a group
looks at.

Ordinary rates are one strided convolution, in the arithmetic of the reference to the last bit:
where a sound is near silence, the logarithm of the mel energies shows the rounding of the filter.
Rates with hardly a common divisor (44099 to 16000) would need a filter of gigabytes; there G
neighbouring outputs share the K inputs they touch, so that each group is one small matrix product.
"""

import math
from functools import lru_cache

import torch

FILTER_ZEROS = 6  # zero crossings of the sinc on each side
ROLLOFF = 0.99  # cut-off frequency as a share of the lower Nyquist frequency
GROUP = 32  # G: outputs per matrix product
MAX_KERNEL = 1 << 22  # elements of a convolution's kernel; 44.1 to 16 kHz has 76 thousand
BLOCK_SAMPLES = 1 << 17  # input samples per step: bounds the working memory to a few megabytes
FLOAT32_EXACT = 1 << 24  # above this float32 no longer holds every integer


def resample(waveform: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Resample a sound.

    Args:
        waveform: float32, shape (C, N).
        from_rate: samples per second of `waveform`.
        to_rate: samples per second wanted.

    Returns:
        float32, shape (C, M) with M = ceil(N * to_rate / from_rate).

    Raises:
        ValueError: a waveform of another rank, or a rate that is not positive.
    """
    if waveform.ndim != 2:
        raise ValueError(f"a waveform has the shape (channels, samples), not {waveform.shape}")
    resampler = Resampler(from_rate, to_rate)
    head = resampler.push(waveform)
    tail = resampler.flush()
    return torch.cat([head, tail], dim=1) if tail.shape[1] else head


class Resampler:
    """The same filter over a sound that arrives in pieces.

    However the sound is cut, the pieces of output joined together are bit for bit those of one
    call of `resample`: the filter always runs over blocks that begin at fixed positions.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        if from_rate <= 0 or to_rate <= 0:
            raise ValueError(f"sample rates are positive, not {from_rate} and {to_rate}")
        self.identity = from_rate == to_rate
        if self.identity:
            return
        self._bank = _filter_bank(from_rate, to_rate)
        self._rows_per_block = max(1, BLOCK_SAMPLES // self._bank.step_in)
        self._pending: torch.Tensor | None = None  # (C, n), samples not yet consumed
        self._received = 0
        self._produced = 0

    def push(self, waveform: torch.Tensor) -> torch.Tensor:
        """Take (C, n) more samples and return the (C, m) that are now certain."""
        if self.identity:
            return waveform
        waveform = waveform.to(torch.float32)
        if self._pending is None:
            # The filter looks `width` samples back, and before the first there is silence.
            self._pending = waveform.new_zeros((waveform.shape[0], self._bank.width))
        self._received += waveform.shape[1]
        self._pending = torch.cat([self._pending, waveform], dim=1)
        rows = self._rows_per_block
        done, pieces = 0, []
        block_in = rows * self._bank.step_in
        while self._pending.shape[1] - done >= self._bank.span(rows):
            pieces.append(self._bank.apply(self._pending[:, done:], rows))
            done += block_in
        if not pieces:
            return waveform.new_zeros((waveform.shape[0], 0))
        # A slice would keep the whole of what was consumed in memory.
        self._pending = self._pending[:, done:].clone()
        out = torch.cat(pieces, dim=1)
        self._produced += out.shape[1]
        return out

    def flush(self) -> torch.Tensor:
        """The last (C, m) samples, with silence after the end of the sound."""
        if self.identity:
            return torch.zeros((0, 0))
        if self._pending is None:
            return torch.zeros((0, 0))
        bank = self._bank
        total = _output_length(self._received, bank.reduced_from, bank.reduced_to)
        wanted = total - self._produced
        channels = self._pending.shape[0]
        pieces = []
        pending = self._pending
        while wanted > 0:
            rows = min(self._rows_per_block, -(-wanted // bank.step_out))
            missing = bank.span(rows) - pending.shape[1]
            block = torch.nn.functional.pad(pending, (0, max(missing, 0)))
            pieces.append(bank.apply(block, rows)[:, :wanted])
            wanted -= pieces[-1].shape[1]
            pending = block[:, rows * bank.step_in :]
        self._pending = None
        return torch.cat(pieces, dim=1) if pieces else torch.zeros((channels, 0))


class _Convolution:
    """The filter of one pair of rates: `step_in` input samples give `step_out` output samples."""

    def __init__(self, reduced_from: int, reduced_to: int) -> None:
        self.reduced_from, self.reduced_to = reduced_from, reduced_to
        self.step_in, self.step_out = reduced_from, reduced_to
        self.width = _filter_width(reduced_from, reduced_to)
        tap = torch.arange(-self.width, self.width + reduced_from)[None, :]
        phase = torch.arange(reduced_to)[:, None]
        self.kernel = _filter(tap, phase, reduced_from, reduced_to)[:, None]  # (step_out, 1, taps)

    def span(self, rows: int) -> int:
        """Input samples that `rows` rows look at."""
        return (rows - 1) * self.step_in + self.kernel.shape[2]

    def apply(self, waveform: torch.Tensor, rows: int) -> torch.Tensor:
        """(C, at least span(rows)) -> (C, rows * step_out)."""
        block = waveform[:, None, : self.span(rows)]
        out = torch.nn.functional.conv1d(block, self.kernel, stride=self.step_in)
        return out.transpose(1, 2).flatten(1)


class _FilterBank:
    """The matrices of a pair of rates with a small common divisor.

    A row takes `step_in` input samples to `step_out` output samples, in groups of G; group q reads
    the K samples from `offsets[q]` on.
    """

    def __init__(self, reduced_from: int, reduced_to: int) -> None:
        self.reduced_from, self.reduced_to = reduced_from, reduced_to
        repeat = GROUP // math.gcd(reduced_to, GROUP)
        self.step_in, self.step_out = reduced_from * repeat, reduced_to * repeat
        self.width = _filter_width(reduced_from, reduced_to)
        self.offsets = [
            first * reduced_from // reduced_to for first in range(0, self.step_out, GROUP)
        ]
        self.taps = (GROUP - 1) * reduced_from // reduced_to + 2 * self.width + 2  # K
        self.matrices = [self._matrix(q) for q in range(len(self.offsets))]

    def _matrix(self, q: int) -> torch.Tensor:
        """Filter of group q, shape (K, G)."""
        output = q * GROUP + torch.arange(GROUP)
        period, phase = output // self.reduced_to, output % self.reduced_to
        position = self.offsets[q] + torch.arange(self.taps) - self.width
        tap = position[:, None] - period[None, :] * self.reduced_from
        return _filter(tap, phase[None, :], self.reduced_from, self.reduced_to)

    def span(self, rows: int) -> int:
        """Input samples that `rows` rows look at."""
        return (rows - 1) * self.step_in + self.offsets[-1] + self.taps

    def apply(self, waveform: torch.Tensor, rows: int) -> torch.Tensor:
        """(C, at least span(rows)) -> (C, rows * step_out)."""
        out = waveform.new_empty((waveform.shape[0], rows, len(self.offsets), GROUP))
        for q, (offset, matrix) in enumerate(zip(self.offsets, self.matrices, strict=True)):
            end = offset + (rows - 1) * self.step_in + self.taps
            windows = waveform[:, offset:end].unfold(1, self.taps, self.step_in)  # (C, rows, K)
            out[:, :, q] = windows @ matrix
        return out.flatten(1)


def _filter_width(reduced_from: int, reduced_to: int) -> int:
    """Input samples the filter looks to each side."""
    return math.ceil(FILTER_ZEROS * reduced_from / (min(reduced_from, reduced_to) * ROLLOFF))


def _filter(
    tap: torch.Tensor, phase: torch.Tensor, reduced_from: int, reduced_to: int
) -> torch.Tensor:
    """The filter's weight of input sample `tap` for output `phase`, in the reference's float32."""
    cutoff = min(reduced_from, reduced_to) * ROLLOFF
    t = -phase.float() / reduced_to + tap.float() / reduced_from
    t = (t * cutoff).clamp(-FILTER_ZEROS, FILTER_ZEROS)
    window = torch.cos(t * math.pi / FILTER_ZEROS / 2) ** 2
    t = t * math.pi
    sinc = torch.where(t == 0, torch.ones(()), t.sin() / t)
    return sinc * (window * (cutoff / reduced_from))


@lru_cache(maxsize=4)
def _filter_bank(from_rate: int, to_rate: int) -> _Convolution | _FilterBank:
    divisor = math.gcd(from_rate, to_rate)
    reduced_from, reduced_to = from_rate // divisor, to_rate // divisor
    taps = 2 * _filter_width(reduced_from, reduced_to) + reduced_from
    kind = _Convolution if reduced_to * taps <= MAX_KERNEL else _FilterBank
    return kind(reduced_from, reduced_to)


def _output_length(num_samples: int, reduced_from: int, reduced_to: int) -> int:
    """Samples after resampling.

    The reference rounds the quotient to float32 before rounding up, which drops a last sample that
    is nearly all filter tail; kept while float32 holds whole numbers, so that clip ranges agree.
    """
    exact = -(-num_samples * reduced_to // reduced_from)
    if exact >= FLOAT32_EXACT:
        return exact
    quotient = torch.tensor(num_samples * reduced_to / reduced_from, dtype=torch.float32)
    return math.ceil(quotient.item())

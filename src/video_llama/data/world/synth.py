"""What sounds are put together from: tones, noise, envelopes and events that repeat.

Shapes: N or n samples; everything is float32.
"""

from collections.abc import Callable, Sequence

import numpy as np

TABLE = 2048  # points of one period of a wavetable


class Maker:
    """Length, rate and chance of one sound, and the parts it is put together from."""

    def __init__(self, n: int, rate: int, rng: np.random.Generator) -> None:
        self.n, self.rate, self.rng = n, rate, rng
        self.seconds = n / rate
        self._stocks: dict[tuple[float, float], np.ndarray] = {}

    def uniform(self, low: float, high: float) -> float:
        """A number between two."""
        return float(self.rng.uniform(low, high))

    def noise(self, n: int, low: float = 0.0, high: float = 0.0) -> np.ndarray:
        """Noise of deviation 1, between two frequencies in Hz if they are given, white otherwise.

        It is a piece, from a random place, of a stock that is filtered once for each sound.
        """
        if len(self._stocks.get((low, high), ())) < n:
            length = 1 << max(14, (n - 1).bit_length())  # a power of two: the transform is fast
            stock = self.rng.standard_normal(length, dtype=np.float32)
            if high:
                hertz = np.fft.rfftfreq(length, 1 / self.rate).astype(np.float32)
                gain = 1 / (1 + (low / np.maximum(hertz, 1)) ** 6) / (1 + (hertz / high) ** 6)
                stock = np.fft.irfft(np.fft.rfft(stock) * gain, length).astype(np.float32)
                stock /= stock.std()
            self._stocks[low, high] = stock
        stock = self._stocks[low, high]
        start = int(self.rng.integers(len(stock)))
        return np.roll(stock, -start)[:n]

    def time(self, n: int) -> np.ndarray:
        """The moments of n samples, in seconds."""
        return np.arange(n, dtype=np.float32) / self.rate

    def tone(
        self, hertz: np.ndarray | float, n: int, harmonics: Sequence[float] = (1.0,)
    ) -> np.ndarray:
        """A tone of a fixed or changing frequency, with the given strength of each harmonic.

        Harmonics that would pass half the rate are left out.
        """
        top = float(np.max(hertz))
        usable = [a for k, a in enumerate(harmonics, 1) if k * top < 0.48 * self.rate] or [1.0]
        spectrum = np.zeros(TABLE // 2 + 1, np.complex64)
        phases = 2j * np.pi * self.rng.random(len(usable))
        spectrum[1 : len(usable) + 1] = np.array(usable) * np.exp(phases)
        table = np.fft.irfft(spectrum, TABLE).astype(np.float32) * TABLE / 2
        if isinstance(hertz, np.ndarray):
            phase = np.cumsum(hertz, dtype=np.float64)
        else:
            phase = np.arange(n, dtype=np.float64) * hertz
        index = (phase * (TABLE / self.rate)).astype(np.int64) & (TABLE - 1)
        return table[index]

    def repeat(
        self, event: Callable[[], np.ndarray], period: tuple[float, float], spread: float = 0.0
    ) -> np.ndarray:
        """Events one after another over the whole time, the first already under way.

        The period, in seconds, is drawn once; `spread` is the share by which each single one
        strays.
        """
        out = np.zeros(self.n, np.float32)
        step = self.uniform(*period)
        start = -self.uniform(0, step)
        while start < self.seconds:
            self.add(out, event(), start, self.uniform(0.75, 1.0))
            start += step * (1 + self.uniform(-spread, spread))
        return out

    def add(self, out: np.ndarray, event: np.ndarray, start: float, gain: float = 1.0) -> None:
        """Mix an event in at a time in seconds, cut at both ends of `out`."""
        at = round(start * self.rate)
        event = event[max(0, -at) : max(0, len(out) - at)]
        at = max(0, at)
        out[at : at + len(event)] += np.float32(gain) * event

    def bump(self, n: int, attack: float = 0.1, power: float = 1.0) -> np.ndarray:
        """An envelope that rises over the share `attack` of it and falls to zero over the rest."""
        x = np.linspace(0, 1, n, dtype=np.float32)
        return np.minimum(x / attack, ((1 - x) / (1 - attack)) ** power).clip(0, 1)


def formant(
    hertz: float, count: int, peaks: Sequence[tuple[float, float]], slope: float = 1.0
) -> list[float]:
    """Strengths of harmonics of `hertz` under resonances (frequency, width), times k ** -slope."""
    at = hertz * np.arange(1, count + 1)
    gain = sum(np.exp(-0.5 * ((at - peak) / width) ** 2) for peak, width in peaks) + 0.04
    return (gain * np.arange(1, count + 1) ** -slope).tolist()

"""Recordings as others would have made them: other microphones, rooms, distances and noises.

A sound is known by what it is only if everything else about it changes while it is learnt.
"""

import numpy as np

from recipes.nano.material import RATE

OCTAVES = np.arange(8)  # above 62.5 Hz: where the random response of a microphone is drawn


def roughened(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples (N,) at RATE -> (N,), of another peak, 0.03 to 1.

    Each of these now and then: a mirrored upper band, a room, the response of a microphone, all but
    a part faded out, clipping, noise.
    """
    samples = np.asarray(samples, np.float64)
    if rng.random() < 0.2:
        samples = with_mirror(samples, -rng.uniform(10, 35))
    if rng.random() < 0.4:
        samples = in_room(samples, rng)
    if rng.random() < 0.8:
        samples = filtered(samples, rng)
    if rng.random() < 0.25:
        samples = samples * part_of(len(samples), rng)
    samples = samples / max(1e-4, float(np.abs(samples).max()))
    if rng.random() < 0.15:
        drive = rng.uniform(1, 6)
        samples = np.tanh(drive * samples) / np.tanh(drive)
    if rng.random() < 0.7:
        samples = samples + noise_for(samples, rng)
    peak = 0.03 ** rng.random()
    return samples * (peak / max(1e-4, float(np.abs(samples).max())))


def with_mirror(samples: np.ndarray, decibels: float) -> np.ndarray:
    """The spectrum mirrored at a quarter of the rate, at a level, beside it.

    Recordings made at 8 kHz have nothing in their upper half, and are not known by that.
    """
    mirrored = samples.copy()
    mirrored[1::2] *= -1
    return samples + mirrored * 10 ** (decibels / 20)


def in_room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With an echo: noise that falls by 60 dB in 0.1 to 0.9 s, 12 dB below the sound to 3 above."""
    count = len(samples)
    seconds = rng.uniform(0.1, 0.9)
    length = min(count, round(seconds * RATE))
    echo = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / RATE / seconds)
    size = 1 << (count + length - 1).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(echo, size)
    heard = np.fft.irfft(spectrum, size)[:count]
    level = samples.std() / max(1e-9, heard.std()) * 10 ** (rng.uniform(-12, 3) / 20)
    return samples + heard * level


def filtered(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Through a random response: 4 dB up or down at each octave, and at times without the lowest or
    the highest frequencies."""
    spectrum = np.fft.rfft(samples)
    hertz = np.maximum(np.fft.rfftfreq(len(samples), 1 / RATE), 1.0)
    octave = np.log2(hertz / 62.5)
    decibels = np.interp(octave, OCTAVES, rng.normal(0, 4, len(OCTAVES)))
    if rng.random() < 0.3:
        edge = rng.uniform(np.log2(1500 / 62.5), np.log2(7000 / 62.5))
        decibels = decibels - rng.uniform(12, 48) * np.maximum(0, octave - edge)
    if rng.random() < 0.3:
        edge = rng.uniform(0, 3)
        decibels = decibels - rng.uniform(12, 24) * np.maximum(0, edge - octave)
    return np.fft.irfft(spectrum * 10 ** (decibels / 20), len(samples))


def part_of(count: int, rng: np.random.Generator) -> np.ndarray:
    """A gain (N,): one at a stretch, a fifth to three fifths of it, nought or little elsewhere."""
    length = round(count * rng.uniform(0.2, 0.6))
    start = rng.integers(0, count - length + 1)
    ramp = RATE // 50
    at = np.arange(count)
    inside = np.clip(np.minimum(at - start, start + length - at) / ramp, 0, 1)
    rest = rng.choice((0.0, 0.03))
    return rest + (1 - rest) * inside


def noise_for(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Steady noise (N,), 3 to 30 dB below the sound, of a random colour."""
    noise = filtered(rng.standard_normal(len(samples)), rng)
    if rng.random() < 0.5:  # duller, as most rooms and engines are
        noise = np.convolve(noise, np.ones(rng.choice((4, 12))), "same")
    level = samples.std() * 10 ** (-rng.uniform(3, 30) / 20)
    return noise * (level / max(1e-9, noise.std()))

"""Recordings as others would have made them."""

import numpy as np
import pytest

from recipes.nano.material import RATE
from recipes.nano.rough_sound import (
    filtered,
    in_room,
    noise_for,
    part_of,
    roughened,
    with_mirror,
)


def tone(hertz: float, count: int = 2 * RATE) -> np.ndarray:
    """A sine of amplitude one half."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / RATE)


def loudest(samples: np.ndarray) -> float:
    """The frequency (Hz) at which there is most."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


def test_every_draw_is_another_one_of_a_peak_within_bounds():
    samples = tone(440)
    draws = [roughened(samples, np.random.default_rng(seed)) for seed in range(60)]
    peaks = [np.abs(draw).max() for draw in draws]
    assert all(len(draw) == len(samples) and np.isfinite(draw).all() for draw in draws)
    assert 0.03 <= min(peaks) < 0.06
    assert 0.5 < max(peaks) <= 1.0
    assert len({draw.tobytes() for draw in draws}) == 60
    again = roughened(samples, np.random.default_rng(7))
    assert np.array_equal(again, draws[7])


def test_silence_stays_silence():
    for seed in range(20):
        assert not roughened(np.zeros(2 * RATE), np.random.default_rng(seed)).any()


def test_what_is_low_is_mirrored_high():
    mirror = with_mirror(tone(1000), -20) - tone(1000)
    assert loudest(mirror) == pytest.approx(RATE / 2 - 1000, abs=1)
    assert np.abs(mirror).max() == pytest.approx(0.05, rel=0.01)


def test_a_room_sounds_on_when_the_sound_has_ended():
    click = np.zeros(2 * RATE)
    click[1000:1100] = tone(3000, 100)
    heard = in_room(click, np.random.default_rng(0))
    assert np.allclose(heard[:1000], 0, atol=1e-9)  # nothing is heard before it is there
    after = heard[1100:]
    assert np.abs(after[:1600]).max() > 10 * np.abs(after[-8000:]).max() > 0


def test_a_response_changes_levels_and_no_frequency():
    for seed in range(20):
        heard = filtered(tone(500), np.random.default_rng(seed))
        assert loudest(heard) == pytest.approx(500, abs=1)
    levels = [filtered(tone(500), np.random.default_rng(seed)).std() for seed in range(20)]
    assert max(levels) > 1.5 * min(levels)


def test_a_part_is_kept_whole():
    for seed in range(20):
        gain = part_of(2 * RATE, np.random.default_rng(seed))
        kept = np.nonzero(gain == 1)[0]
        assert 0.3 * RATE < len(kept) == np.ptp(kept) + 1 < 1.2 * RATE + 1
        assert gain.min() in (0.0, 0.03)


def test_noise_is_as_far_below_as_is_said():
    for seed in range(20):
        noise = noise_for(tone(500), np.random.default_rng(seed))
        assert -30.1 < 20 * np.log10(noise.std() / tone(500).std()) < -2.9

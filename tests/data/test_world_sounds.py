import numpy as np
import pytest

from video_llama.data.world.scene import scene_from_seed
from video_llama.data.world.sounds import SAMPLE_RATE, SOUNDS, render_sound
from video_llama.data.world.things import SOUNDING
from video_llama.errors import OptionError


def features(sound: np.ndarray) -> np.ndarray:
    """Statistics of a spectrogram in 24 bands: level, spread, change over time, and rhythm."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(windows.astype(np.float32))) ** 2
    edges = np.unique(np.geomspace(2, 256, 25).astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-5)
    rhythm = np.abs(np.fft.rfft(bands.mean(1) - bands.mean()))[:40] / len(bands)
    change = np.abs(np.diff(bands, axis=0)).mean(0)
    return np.concatenate([bands.mean(0) - bands.mean(), bands.std(0), change, rhythm])


def test_sounds_of_all_things_and_no_others():
    assert tuple(SOUNDS) == SOUNDING


@pytest.mark.parametrize("thing", SOUNDING)
def test_length_range_and_repeatability(thing):
    for seconds, rate in ((2.0, SAMPLE_RATE), (0.25, SAMPLE_RATE), (3.1, 44_100)):
        sound = render_sound(thing, seconds, rate)
        assert sound.shape == (round(seconds * rate),)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert 0.29 < np.abs(sound).max() < 0.91
    again = [render_sound(thing, 1.0, rng=np.random.default_rng(3)) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    assert (render_sound(thing, 1.0, rng=np.random.default_rng(4)) != again[0]).any()


def test_a_scene_sounds_as_long_as_it_lasts():
    scene = scene_from_seed(5, "audio", seconds=1.5)
    sound = render_sound(scene)
    assert sound.shape == (24_000,)
    np.testing.assert_array_equal(sound, render_sound(scene))


def test_sounds_are_told_apart_by_simple_statistics():
    rng = np.random.default_rng(0)
    train, test = (
        np.array([[features(render_sound(s, 2.0, rng=rng)) for _ in range(n)] for s in SOUNDING])
        for n in (14, 8)
    )
    centre, spread = train.mean((0, 1)), train.std((0, 1)) + 1e-6
    means = ((train - centre) / spread).mean(1)
    distance = (((test - centre) / spread)[:, :, None] - means) ** 2
    right = distance.sum(-1).argmin(-1) == np.arange(len(SOUNDING))[:, None]
    assert right.mean() > 0.95


def test_what_makes_no_sound_is_refused():
    with pytest.raises(OptionError, match="this scene has no sound"):
        render_sound(scene_from_seed(0, "image"))
    with pytest.raises(OptionError, match="'ball' makes no sound"):
        render_sound("ball", 2.0)
    for seconds, rate in ((0.0, 16_000), (None, 16_000), (1.0, 4000)):
        with pytest.raises(OptionError, match="rate from 8000"):
            render_sound("dog", seconds, rate)

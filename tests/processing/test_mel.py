import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.errors import OptionError
from video_llama.processing.mel import SHIFT, WINDOW, MelSettings, fbank, sound_to_clips

RATE = 16_000


def noise(channels, samples, seed=0):
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed)) / 10


def tone(frequency, samples=RATE):
    return torch.sin(2 * math.pi * frequency * torch.arange(samples) / RATE) / 2


@settings(deadline=None, max_examples=25)
@given(
    samples=st.integers(WINDOW, 3 * RATE),
    clips=st.integers(1, 5),
    seconds=st.sampled_from([0.025, 0.37, 1.0, 2.0]),
    bins=st.sampled_from([16, 64]),
    length=st.sampled_from([1, 50, 204]),
)
def test_shapes(samples, clips, seconds, bins, length):
    mel_settings = MelSettings(clips, seconds, bins, length)
    out = sound_to_clips(noise(1, samples), mel_settings)
    assert out.shape == (clips, 1, bins, length)
    assert torch.isfinite(out).all()


def test_padding_is_zero_before_normalising():
    mel_settings = MelSettings(num_clips=1, mean=-4.0, std=2.0)
    out = sound_to_clips(noise(1, 800), mel_settings)
    count = 1 + (800 - WINDOW) // SHIFT
    assert (out[..., count:] == 2.0).all()
    assert (out[..., :count] != 2.0).all()


def test_a_tone_is_loudest_in_its_own_band():
    low, high = fbank(tone(300)).mean(0), fbank(tone(5000)).mean(0)
    assert low.argmax() < 30
    assert high.argmax() > 90


def test_silence_is_the_floor():
    floor = math.log(torch.finfo(torch.float32).eps)
    assert torch.allclose(fbank(torch.zeros(2, WINDOW)), torch.tensor(floor))


def test_batch_equals_alone():
    sounds = torch.stack([noise(1, RATE, seed)[0] for seed in range(3)])
    together = fbank(sounds)
    for number in range(3):
        torch.testing.assert_close(together[number], fbank(sounds[number]), rtol=0, atol=1e-5)


def test_clips_do_not_change_one_another_nor_the_sound():
    sound = noise(1, 3 * RATE) + torch.linspace(-1, 1, 3 * RATE)
    before = sound.clone()
    clips = sound_to_clips(sound, MelSettings(num_clips=4))
    assert torch.equal(sound, before)
    last = sound_to_clips(sound[:, 12000 : 12000 + 2 * RATE], MelSettings(num_clips=1))
    torch.testing.assert_close(clips[3], last[0], rtol=0, atol=1e-5)


def test_channel_rules():
    left, right = noise(1, RATE, 1), noise(1, RATE, 2)
    stereo = torch.cat([left, right])
    first = sound_to_clips(stereo, channels="first")
    torch.testing.assert_close(first, sound_to_clips(left), rtol=0, atol=1e-4)
    mean = sound_to_clips(stereo, channels="mean")
    torch.testing.assert_close(mean, sound_to_clips((left + right) / 2), rtol=0, atol=1e-4)
    with pytest.raises(OptionError, match="'second'"):
        sound_to_clips(stereo, channels="second")


@pytest.mark.parametrize("sound", [torch.zeros(1, WINDOW - 1), torch.zeros(RATE)])
def test_too_short_or_misshapen(sound):
    with pytest.raises(OptionError, match="400 samples"):
        sound_to_clips(sound)


@pytest.mark.parametrize(
    "field", ["num_clips", "clip_seconds", "num_mel_bins", "target_length", "std"]
)
def test_settings_are_checked(field):
    with pytest.raises(OptionError, match=field):
        MelSettings(**{field: 0})
    with pytest.raises(OptionError, match=r"0\.025"):
        MelSettings(clip_seconds=0.01)

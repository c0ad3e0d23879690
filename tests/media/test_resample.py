import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.media import resample as module
from video_llama.media.resample import Resampler, resample

RATES = [8000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000]


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_stays_the_same_tone(rate: int) -> None:
    t = torch.arange(rate) / rate
    there = torch.sin(2 * torch.pi * 440 * t)[None]
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    out = resample(there, rate, 16_000)[0]
    assert out.shape == (16_000,)
    assert (out - expected)[200:-200].abs().max() < 5e-3


def test_what_lies_above_the_new_limit_is_taken_out() -> None:
    tone = torch.sin(2 * torch.pi * 15_000 * torch.arange(48_000) / 48_000)[None]
    assert resample(tone, 48_000, 16_000)[:, 100:-100].abs().max() < 1e-2


def test_channels_do_not_touch_each_other() -> None:
    wave = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    together = resample(wave, 44_100, 16_000)
    for channel in range(3):
        alone = resample(wave[channel : channel + 1], 44_100, 16_000)
        torch.testing.assert_close(together[channel : channel + 1], alone, rtol=0, atol=1e-6)


def test_the_same_rate_changes_nothing() -> None:
    wave = torch.randn(2, 100)
    assert torch.equal(resample(wave, 16_000, 16_000), wave)


@pytest.mark.parametrize(("rate", "samples"), [(44_101, 30_000), (7919, 9000)])
def test_rates_without_a_common_divisor_are_no_special_case(rate: int, samples: int) -> None:
    t = torch.arange(samples) / rate
    out = resample(torch.cos(2 * torch.pi * 300 * t)[None], rate, 16_000)[0]
    expected = torch.cos(2 * torch.pi * 300 * torch.arange(len(out)) / 16_000)
    assert (out - expected)[300:-300].abs().max() < 5e-3


@settings(max_examples=30, deadline=None)
@given(
    rate=st.sampled_from([8000, 22_050, 44_100, 48_000, 16_000]),
    cuts=st.lists(st.integers(0, 3000), min_size=1, max_size=8),
    seed=st.integers(0, 100),
)
def test_a_sound_in_pieces_equals_the_whole_to_the_bit(
    rate: int, cuts: list[int], seed: int
) -> None:
    wave = torch.randn(2, sum(cuts), generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SAMPLES", 1024)  # many blocks in a short sound
        whole = resample(wave, rate, 16_000)
        resampler = Resampler(rate, 16_000)
        pieces = [resampler.push(piece) for piece in wave.split(cuts, dim=1)]
        pieces.append(resampler.flush())
    joined = torch.cat([piece for piece in pieces if piece.shape[1]] or [wave[:, :0]], dim=1)
    assert torch.equal(joined, whole)


@pytest.mark.parametrize("samples", [0, 1, 2, 399, 1000])
def test_lengths_are_rounded_up(samples: int) -> None:
    assert resample(torch.ones(1, samples), 44_100, 16_000).shape == (
        1,
        int(np.ceil(samples * 16_000 / 44_100)),
    )


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="channels, samples"):
        resample(torch.zeros(10), 8000, 16_000)
    with pytest.raises(ValueError, match="positive"):
        resample(torch.zeros(1, 10), 0, 16_000)

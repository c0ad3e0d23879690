"""The resampler against recorded numbers of the original's."""

import pytest
import torch

from video_llama.media.resample import resample

PCM_SCALE = 32768.0
SAME = 2e-5  # the original computed its filter in float32, we in float64


def test_samples_are_the_recorded_ones(kit) -> None:
    tensors, description = kit.tensors("mel"), kit.json("mel")
    expected = tensors["resample.out.wave16k"]
    rate = _rate_of(description, tensors["resample.in.pcm16"].shape[1], expected.shape[1])
    out = resample(tensors["resample.in.pcm16"].float() / PCM_SCALE, rate, 16_000)
    assert out.shape == expected.shape
    assert (out - expected).abs().max() < SAME


def test_lengths_are_the_recorded_ones(kit) -> None:
    description = kit.json("mel")
    target = description["params"]["target_sample_rate"]
    for case in description["cases"]:
        silence = torch.zeros(1, case["samples"])
        resampled = resample(silence, case["sample_rate"], target)
        assert resampled.shape == (1, case["samples_at_16k"]), case["name"]


def _rate_of(description, before: int, after: int) -> int:
    """The rate of the resampling sample, which the kit tells by its lengths alone."""
    common = {8000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000}
    rates = common | {case["sample_rate"] for case in description["cases"]}
    fits = [rate for rate in rates if -(-before * 16_000 // rate) == after]
    if len(fits) != 1:
        pytest.fail(f"{before} samples become {after} at the rates {fits}")
    return fits[0]

"""Sound to mel clips against those of the original.

The original subtracts the mean of a clip in place on the shared waveform, so clips that overlap
change one another. `sound_to_clips` does not; the recorded clips do. Both are tested: ours within
the effect recorded for each clip, and the recorded ones with the fault put back by the test.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import pad

from video_llama.errors import OptionError
from video_llama.media.resample import resample
from video_llama.media.sampling import clip_ranges
from video_llama.processing.mel import MelSettings, fbank, sound_to_clips

# The recording's Fourier transforms are those of MKL's path for any CPU, as an AMD takes it. An
# Intel takes faster ones, whose last bit differs: near silence a log energy shows that by 4e-3
# (fp64, too, is 3e-3 away from the recording). MKL is told once, before its first call.
ARITHMETIC = {"MKL_CBWR": "COMPATIBLE"}
MAX_ERROR = 2e-3  # of a log-mel energy
MEAN_ERROR = 5e-5


@pytest.fixture(scope="module")
def recorded(kit):
    return kit.json("mel"), kit.tensors("mel")


@pytest.fixture(scope="module")
def settings(recorded):
    params = recorded[0]["params"]
    return MelSettings(
        num_clips=params["clips_per_video"],
        clip_seconds=params["clip_duration_s"],
        num_mel_bins=params["num_mel_bins"],
        target_length=params["target_length"],
        mean=params["mean"],
        std=params["std"],
    )


def computes_as_recorded(request) -> bool:
    """Whether this process does; if not, the test has run and passed in one that does."""
    if all(os.environ.get(name) == value for name, value in ARITHMETIC.items()):
        return True
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    test = f"{request.path}::{request.node.name}"
    run = subprocess.run(
        [*command, test], env={**os.environ, **ARITHMETIC}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    return False


def at_16k(case, recorded):
    facts, tensors = recorded
    pcm = tensors[f"{case['name']}.in.pcm16"].float() / 32768
    sound = resample(pcm, case["sample_rate"], facts["params"]["target_sample_rate"])
    assert sound.shape == (case["channels"], case["samples_at_16k"])
    return sound


def assert_log_mel_close(error):
    assert error.mean() <= MEAN_ERROR
    assert error.max() <= MAX_ERROR


def test_settings_are_the_published_ones(settings):
    assert settings == MelSettings()


def test_fbank_alone(recorded, request):
    if not computes_as_recorded(request):
        return
    facts, tensors = recorded
    wave = tensors["fbank_only.in.wave16k"]
    ours = fbank((wave - wave.mean())[0], facts["params"]["num_mel_bins"])
    assert_log_mel_close((ours - tensors["fbank_only.out.fbank"]).abs())


def test_sample_ranges(recorded, settings):
    facts, _ = recorded
    rate = facts["params"]["target_sample_rate"]
    for case in facts["cases"] + facts["timepoints"]:
        clips = case.get("clips_per_video", settings.num_clips)
        ranges = clip_ranges(case["samples_at_16k"], rate, clips, settings.clip_seconds)
        assert [list(r) for r in ranges] == case["sample_ranges"]


def test_clips_without_the_in_place_fault(recorded, settings, request):
    if not computes_as_recorded(request):
        return
    facts, tensors = recorded
    for case in facts["cases"]:
        clips = sound_to_clips(at_16k(case, recorded), settings, channels="first")
        for k in case["saved_clips"]:
            expected = tensors[f"{case['name']}.out.mel_norm.{k}"]
            bound = case["per_clip_inplace_effect"][k] + MAX_ERROR / settings.std
            assert (clips[k] - expected).abs().max() <= bound, (case["name"], k)
        for clip, stats in zip(clips, case["out_stats"], strict=True):
            assert clip.mean().item() == pytest.approx(stats["mean"], abs=2e-3)
            assert clip.std().item() == pytest.approx(stats["std"], abs=2e-3)
            assert clip.abs().max().item() == pytest.approx(stats["absmax"], abs=2e-3)


def test_clips_with_the_in_place_fault_put_back(recorded, settings, request):
    if not computes_as_recorded(request):
        return
    facts, tensors = recorded
    for case in facts["cases"]:
        shared = at_16k(case, recorded).clone()
        waveforms = []
        for start, end in case["sample_ranges"]:
            clip = shared[:, start:end]
            clip -= clip.mean()  # of all channels; changes what the next clip sees
            waveforms.append(clip[0].clone())
        mel = fbank(torch.stack(waveforms), settings.num_mel_bins).transpose(1, 2)
        assert mel.shape[2] == case["fbank_frames_before_padding"]
        mel = pad(mel, (0, settings.target_length - mel.shape[2]))
        for k in case["saved_clips"]:
            expected = tensors[f"{case['name']}.out.mel_norm.{k}"][0]
            log_mel = expected * settings.std + settings.mean
            assert_log_mel_close((mel[k] - log_mel).abs())


def test_too_short(recorded, settings):
    facts, _ = recorded
    shortest = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    clips = sound_to_clips(shortest, settings)
    assert list(clips[0].shape) == facts["too_short"]["samples_400_ok"]
    with pytest.raises(OptionError, match="400 samples"):
        sound_to_clips(shortest[:, :399], settings)

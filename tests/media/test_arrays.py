"""Arrays and tensors that are already decoded."""

import numpy as np
import pytest
import torch
from make import picture, sine

from video_llama.errors import MediaLimitError, OptionError, UnsupportedMediaError
from video_llama.media.reader import Limits, load_media, probe
from video_llama.media.source import FramesArray, SoundArray

FRAMES = np.stack([picture(index) for index in range(20)])


def test_frames_are_sampled_like_a_film() -> None:
    clip = load_media(FramesArray(FRAMES, fps=10), num_frames=4)
    assert clip.indices == (0, 5, 10, 15)
    assert clip.times == (0.0, 0.5, 1.0, 1.5)
    assert np.array_equal(clip.frames, FRAMES[[0, 5, 10, 15]])
    assert clip.warnings == ()
    assert clip.info.duration == pytest.approx(2.0)
    assert clip.info.video.fps == pytest.approx(10)


def test_given_times_are_kept() -> None:
    times = [5.0 + index**2 / 10 for index in range(20)]
    clip = load_media(FramesArray(FRAMES, times=times), times=[0.0, 1.7])
    assert clip.indices == (0, 4)
    assert clip.times == pytest.approx((0.0, 1.6))


def test_a_bare_array_is_frames_and_one_frame_a_picture() -> None:
    clip = load_media(FRAMES)
    assert len(clip.frames) == 8
    assert any("one a second" in warning for warning in clip.warnings)
    still = load_media(torch.from_numpy(FRAMES[0]))
    assert still.info.kind == "image"
    assert still.warnings == ()
    assert np.array_equal(still.frames[0], FRAMES[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_lie_between_0_and_1(dtype: torch.dtype) -> None:
    clip = load_media(torch.from_numpy(FRAMES[:3]).to(dtype) / 255)
    assert np.array_equal(clip.frames, FRAMES[:3])


def test_the_result_shares_nothing_with_what_was_given() -> None:
    frames = FRAMES.copy()
    clip = load_media(FramesArray(frames, fps=1), num_frames=20)
    frames[:] = 0
    assert np.array_equal(clip.frames, FRAMES)


def test_sound_arrays_are_mixed_and_resampled() -> None:
    stereo = np.stack([sine(440, 1.0, 48_000), sine(880, 1.0, 48_000)])
    clip = load_media(SoundArray(stereo, 48_000))
    assert clip.info.kind == "audio"
    assert clip.info.audio.channels == 2
    assert clip.sound.shape == (1, 16_000)
    assert clip.frames is None
    first = load_media(SoundArray(torch.from_numpy(stereo), 48_000), sound_channels="first")
    assert np.abs(first.sound[0] - sine(440, 1.0, 16_000))[50:-50].max() < 5e-3
    integers = (stereo * 32767).astype(np.int16)
    assert np.abs(load_media(SoundArray(integers, 48_000)).sound - clip.sound).max() < 1e-3


def test_frames_with_sound() -> None:
    sound = SoundArray(sine(440, 2.0, 16_000), 16_000)
    clip = load_media(FramesArray(FRAMES, fps=10, sound=sound))
    assert clip.info.kind == "video"
    assert clip.has_sound
    assert clip.info.audio is not None
    assert probe(FramesArray(FRAMES, fps=10, sound=sound)) == clip.info


def test_too_short_a_sound() -> None:
    clip = load_media(SoundArray(np.zeros(399, np.float32), 16_000))
    assert not clip.has_sound
    assert "too short" in clip.warnings[0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((4, 3, 8, 8), np.uint8), "shape"),
        (np.zeros(100, np.float32), "SoundArray"),
        (np.zeros((2, 8, 8, 3), np.int32), "uint8"),
        (np.full((2, 8, 8, 3), 200.0), r"\[0, 1\]"),
        (np.full((2, 8, 8, 3), np.nan), r"\[0, 1\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no picture"),
        (SoundArray(np.zeros((1, 2, 3)), 16_000), r"\(C, N\)"),
        (SoundArray(np.zeros(1000, bool), 16_000), "floats or integers"),
        (SoundArray(np.full(1000, np.inf), 16_000), "no numbers"),
        (SoundArray(np.full(1000, 30_000), 16_000), "int64 and would fill 16 bits"),
        (SoundArray(np.array(1.0), 16_000), r"\(C, N\), not \(\)"),
        (FramesArray(FRAMES, sound=np.zeros(1000)), "SoundArray"),
        (torch.zeros((8, 8, 3), device="meta"), "plain values"),
        (torch.zeros((8, 8, 3)).to_sparse(), "plain values"),
        (SoundArray(np.zeros((1000, 2)), 16_000), "transpose"),
        (SoundArray(np.full(1000, 30_000.0), 16_000), r"reaches 30,000"),
        (FramesArray([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))]), "differ in shape"),
        (FramesArray([np.zeros((8, 8, 4), np.uint8)] * 2), r"not \(2, 8, 8, 4\)"),
    ],
)
def test_arrays_that_are_no_media(source: object, words: str) -> None:
    with pytest.raises(UnsupportedMediaError, match=words):
        load_media(source)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (FramesArray(FRAMES, times=[0.0, 1.0]), "2 times"),
        (FramesArray(FRAMES[:2], times=[1.0, 1.0]), "ascending"),
        (FramesArray(FRAMES[:1], times=[np.nan]), "numbers"),
        (FramesArray(FRAMES, fps=np.inf), "above 0"),
        (FramesArray(FRAMES, fps="25"), "above 0"),
        (FramesArray(FRAMES, times=5), "numbers"),
        (FramesArray(FRAMES, times=[None] * len(FRAMES)), "numbers"),
        (SoundArray(np.zeros(1000), np.inf), "whole number"),
        (SoundArray(np.zeros(1000), 22_050.5), "whole number"),
        (SoundArray(np.zeros(1000), "16000"), "whole number"),
        (FramesArray(FRAMES, fps=0), "above 0"),
        (SoundArray(np.zeros(1000), 0), "above 0"),
    ],
)
def test_settings_of_arrays_are_checked(source: object, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        load_media(source)


def test_limits_hold_for_arrays() -> None:
    with pytest.raises(MediaLimitError, match="pixels"):
        load_media(FRAMES, limits=Limits(pixels=100))
    with pytest.raises(MediaLimitError, match="values"):
        load_media(SoundArray(np.zeros(1000), 16_000), limits=Limits(samples=999))
    with pytest.raises(MediaLimitError, match="frames"):
        load_media(FRAMES, limits=Limits(frames=5))


@pytest.mark.parametrize("rate", [8000.0, np.float64(8000), np.int64(8000)])
def test_a_rate_may_be_any_whole_number(rate) -> None:
    clip = load_media(SoundArray(np.zeros(8000, np.float32), rate))
    assert clip.sound.shape == (1, 16_000)
    assert clip.info.audio.rate == 8000


def test_unsigned_sound_is_silent_in_its_middle() -> None:
    for dtype in (np.uint8, np.uint16, np.uint32):
        middle = 1 << (8 * np.dtype(dtype).itemsize - 1)
        wave = np.array([middle, 2 * middle - 1, middle, 0] * 400, dtype)
        sound = load_media(SoundArray(wave, 16_000)).sound
        assert sound[0, :4] == pytest.approx([0, 1, 0, -1], abs=0.01)

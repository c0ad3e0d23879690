import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.errors import OptionError
from video_llama.processing.frames import (
    IMAGE_MEAN,
    IMAGE_STD,
    CropBox,
    crop_frames,
    draw_crop_box,
    frames_to_pixel_values,
    random_crop,
    resize_frames,
)


def frames(count, height, width, seed=0):
    shape = (count, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_picture_is_a_video_of_one_frame():
    video = frames(3, 31, 47)
    whole = frames_to_pixel_values(video, 16)
    assert whole.shape == (3, 3, 16, 16)
    assert whole.dtype == torch.float32
    for number in range(3):
        alone = frames_to_pixel_values(video[number : number + 1], 16)
        assert torch.equal(alone[0], whole[number])


def test_normalisation_of_known_colours():
    video = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    video[..., 0] = 255
    pixels = frames_to_pixel_values(video, 8)[0, :, 0, 0]
    rows = zip((1, 0, 0), IMAGE_MEAN, IMAGE_STD, strict=True)
    expected = [(value - mean) / std for value, mean, std in rows]
    assert pixels.tolist() == pytest.approx(expected)


def test_frames_of_the_right_size_are_left_alone():
    video = frames(2, 16, 16)
    assert resize_frames(video, 16) is video


def test_input_is_not_changed_and_may_be_read_only():
    video = frames(2, 16, 16)
    video.flags.writeable = False
    before = video.copy()
    frames_to_pixel_values(video, 16)
    random_crop(video, 16)
    assert (video == before).all()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), dtype=np.uint8),
        np.zeros((1, 4, 4, 4), dtype=np.uint8),
        np.zeros((1, 4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 4, 3), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused(wrong):
    with pytest.raises(OptionError, match="uint8 array of shape"):
        frames_to_pixel_values(wrong, 8)


@settings(deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    seed=st.integers(0, 2**31),
)
def test_crop_boxes_lie_inside(height, width, seed):
    box = draw_crop_box(height, width, generator=torch.Generator().manual_seed(seed))
    assert 0 <= box.top <= box.top + box.height <= height
    assert 0 <= box.left <= box.left + box.width <= width
    assert box.height > 0
    assert box.width > 0


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10)])
def test_no_box_fits_a_strip(height, width):
    """Then the largest central box within the allowed ratios is taken."""
    box = draw_crop_box(height, width, scale=(1.0, 1.0))
    assert min(box.height, box.width) == 10
    assert max(box.height, box.width) == 13
    assert box.top == (height - box.height) // 2
    assert box.left == (width - box.width) // 2


def test_one_box_for_all_frames():
    same = np.repeat(frames(1, 24, 24), 3, axis=0)
    cropped = random_crop(same, 24, torch.Generator().manual_seed(1))
    assert cropped.shape == (3, 24, 24, 3)
    assert (cropped == cropped[:1]).all()
    assert (cropped != same).any()


def test_random_crop_of_a_picture_keeps_its_own_resolution():
    picture = frames(1, 90, 120)
    generator = torch.Generator().manual_seed(3)
    box = draw_crop_box(90, 120, generator=torch.Generator().manual_seed(3))
    cropped = random_crop(picture, 16, generator)
    cut = picture[:, box.top : box.top + box.height, box.left : box.left + box.width]
    assert (cropped == resize_frames(np.ascontiguousarray(cut), 16)).all()


def test_the_whole_box_changes_nothing():
    video = frames(2, 16, 16)
    assert (crop_frames(video, 16, CropBox(0, 0, 16, 16)) == video).all()

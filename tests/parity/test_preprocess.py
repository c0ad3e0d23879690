"""Pixels of pictures and videos against those of the original."""

import pytest
import torch

from video_llama.processing.frames import (
    IMAGE_MEAN,
    IMAGE_STD,
    CropBox,
    crop_frames,
    draw_crop_box,
    frames_to_pixel_values,
    interpolate_box,
    normalize_pixels,
)


@pytest.fixture(scope="module")
def recorded(kit):
    return kit.json("preprocess"), kit.tensors("preprocess")


def test_normalisation_constants(recorded):
    facts, _ = recorded
    assert pytest.approx(facts["mean"]) == IMAGE_MEAN
    assert pytest.approx(facts["std"]) == IMAGE_STD


def test_picture(recorded):
    facts, tensors = recorded
    picture = tensors["image_eval.in.hwc_u8"].numpy()[None]
    pixels = frames_to_pixel_values(picture, facts["image_size_used_here"])
    torch.testing.assert_close(pixels[0], tensors["image_eval.out"], rtol=0, atol=1e-6)


def test_video(recorded):
    facts, tensors = recorded
    frames = tensors["video_eval.in.cthw_u8"].permute(1, 2, 3, 0).contiguous().numpy()
    pixels = frames_to_pixel_values(frames, facts["image_size_used_here"])
    expected = tensors["video_eval.out"].transpose(0, 1)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_crop_boxes_are_drawn_as_recorded(recorded):
    facts, _ = recorded
    for example in facts["get_params_examples"]:
        generator = torch.Generator().manual_seed(example["torch_seed"])
        size, scale, ratio = example["size"], tuple(example["scale"]), tuple(example["ratio"])
        box = draw_crop_box(size, size, scale, ratio, generator)
        assert list(box) == example["ijhw"]


def test_training_crop_interpolates_as_recorded(recorded):
    facts, tensors = recorded
    pixels = tensors["video_train.in.cthw_u8"].transpose(0, 1).float()
    for number, box in enumerate(facts["crop_boxes_ijhw"]):
        name = f"video_train.{number}.resized_float"
        if name in tensors:
            ours = interpolate_box(pixels, facts["image_size_used_here"], CropBox(*box))
            torch.testing.assert_close(ours.transpose(0, 1), tensors[name], rtol=0, atol=1e-3)


def test_training_crop_clamps_what_the_original_wraps(recorded):
    """The original casts bicubic overshoot to uint8 modulo 256; here it is clamped.

    Everywhere else the pixels agree; where values overshoot, ours are black or white and the
    recorded ones are mostly not.
    """
    facts, tensors = recorded
    size = facts["image_size_used_here"]
    video = tensors["video_train.in.cthw_u8"]
    frames = video.permute(1, 2, 3, 0).contiguous().numpy()
    for number, box in enumerate(facts["crop_boxes_ijhw"]):
        exact = interpolate_box(video.transpose(0, 1).float(), size, CropBox(*box))
        exact = exact.permute(0, 2, 3, 1)  # (T, S, S, 3)
        ours = crop_frames(frames, size, CropBox(*box))
        theirs = tensors[f"video_train.{number}.u8_thwc"]
        low, high = exact < 0, exact >= 256
        inside = ~(low | high)
        ours_tensor = torch.from_numpy(ours)
        assert torch.equal(ours_tensor[inside], theirs[inside])
        assert (ours_tensor[low] == 0).all()
        assert (ours_tensor[high] == 255).all()
        assert (theirs[~inside] != ours_tensor[~inside]).any(), "the recorded crop wraps"
        pixels = normalize_pixels(ours).transpose(0, 1)  # (3, T, S, S)
        expected = tensors[f"video_train.{number}.out"]
        same = inside.permute(3, 0, 1, 2)
        torch.testing.assert_close(pixels[same], expected[same], rtol=0, atol=1e-6)

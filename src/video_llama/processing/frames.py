"""Frames and pictures to pixel values.

A picture is a video of one frame, so both go the same way: RGB, resized to a square without keeping
the aspect ratio (bicubic, antialiased), scaled to [0, 1], normalised.

Shapes: T frames, H height, W width, S side of the square the vision encoder sees.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from video_llama.errors import OptionError

# Mean and deviation of red, green and blue in [0, 1] on the pictures the encoders were trained on.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

CROP_SCALE = (0.5, 1.0)  # share of the area a training crop keeps
CROP_RATIO = (3 / 4, 4 / 3)  # its width over its height
CROP_ATTEMPTS = 10  # draws before the largest central box is taken


class CropBox(NamedTuple):
    """A rectangle in pixels: rows [top, top + height), columns [left, left + width)."""

    top: int
    left: int
    height: int
    width: int


def frames_to_pixel_values(
    frames: np.ndarray,
    size: int,
    mean: Sequence[float] = IMAGE_MEAN,
    std: Sequence[float] = IMAGE_STD,
) -> torch.Tensor:
    """The frames as the vision encoder takes them.

    Args:
        frames: uint8, shape (T, H, W, 3), RGB, upright.
        size: S. Frames that already have this size are only normalised.
        mean: of each channel in [0, 1].
        std: of each channel in [0, 1].

    Returns:
        float32, shape (T, 3, S, S).

    Raises:
        OptionError: the frames have another type or shape.
    """
    return normalize_pixels(resize_frames(frames, size), mean, std)


def resize_frames(frames: np.ndarray, size: int) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, S, S, 3) uint8, bicubic with antialiasing; no-op at size S."""
    _require_rgb(frames)
    if frames.shape[1:3] == (size, size):
        return frames
    resized = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    for frame, target in zip(frames, resized, strict=True):
        picture = Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC)
        target[:] = np.asarray(picture)
    return resized


def normalize_pixels(
    frames: np.ndarray,
    mean: Sequence[float] = IMAGE_MEAN,
    std: Sequence[float] = IMAGE_STD,
) -> torch.Tensor:
    """(T, S, S, 3) uint8 -> (T, 3, S, S) float32, `(x / 255 - mean) / std`."""
    # A copy, because a decoder's array may be read-only and torch tensors are not.
    pixels = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float().div_(255)
    channel_mean = torch.tensor(mean).view(1, 3, 1, 1)
    channel_std = torch.tensor(std).view(1, 3, 1, 1)
    return pixels.sub_(channel_mean).div_(channel_std).contiguous()


def draw_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float] = CROP_SCALE,
    ratio: tuple[float, float] = CROP_RATIO,
    generator: torch.Generator | None = None,
) -> CropBox:
    """A random box inside a picture of `height` x `width`, for training.

    Area and aspect ratio (log-uniform) are drawn up to ten times; if no box fits, the largest
    central one within the allowed ratios is taken. The draws and their order are those of
    torchvision's `RandomResizedCrop`, so a seed gives the boxes of the reference.
    """
    low, high = torch.log(torch.tensor(ratio)).tolist()
    for _ in range(CROP_ATTEMPTS):
        area = height * width * _uniform(*scale, generator)
        aspect = torch.exp(torch.tensor(_uniform(low, high, generator))).item()
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = _integer(height - box_height + 1, generator)
            left = _integer(width - box_width + 1, generator)
            return CropBox(top, left, box_height, box_width)
    return _central_box(height, width, ratio)


def crop_frames(frames: np.ndarray, size: int, box: CropBox) -> np.ndarray:
    """Cut the same box from every frame of a video and enlarge it, for training.

    The frames are brought to S x S first, so `box` is in pixels of that square. The reference casts
    the interpolated values to uint8 without clamping, so bicubic overshoot wraps round (256 becomes
    0: white turns black). That fault is not kept: values are clamped to [0, 255].

    Args:
        frames: uint8, shape (T, H, W, 3).
        size: S.
        box: the crop, in S x S pixels.

    Returns:
        uint8, shape (T, S, S, 3).
    """
    square = resize_frames(frames, size)
    pixels = torch.from_numpy(square.copy()).permute(0, 3, 1, 2).float()
    enlarged = interpolate_box(pixels, size, box).clamp_(0, 255)
    return enlarged.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def interpolate_box(pixels: torch.Tensor, size: int, box: CropBox) -> torch.Tensor:
    """(T, 3, H, W) float -> (T, 3, S, S) float, bicubic without antialiasing, not clamped."""
    rows = slice(box.top, box.top + box.height)
    columns = slice(box.left, box.left + box.width)
    return torch.nn.functional.interpolate(
        pixels[:, :, rows, columns], size=(size, size), mode="bicubic", align_corners=False
    )


def crop_picture(picture: np.ndarray, size: int, box: CropBox) -> np.ndarray:
    """Cut a box from a picture and resize it, for training.

    A picture keeps its own resolution until here (antialiased bicubic), unlike the frames of a
    video.

    Args:
        picture: uint8, shape (1, H, W, 3).
        size: S.
        box: the crop, in pixels of the picture.

    Returns:
        uint8, shape (1, S, S, 3).
    """
    rows = slice(box.top, box.top + box.height)
    columns = slice(box.left, box.left + box.width)
    return resize_frames(np.ascontiguousarray(picture[:, rows, columns]), size)


def random_crop(
    frames: np.ndarray, size: int, generator: torch.Generator | None = None
) -> np.ndarray:
    """A random training crop of a video, or of a picture (one frame), to S x S.

    Args:
        frames: uint8, shape (T, H, W, 3).
        size: S.
        generator: decides the box; torch's global one by default.

    Returns:
        uint8, shape (T, S, S, 3); one box for all frames.
    """
    _require_rgb(frames)
    if len(frames) == 1:
        box = draw_crop_box(*frames.shape[1:3], generator=generator)
        return crop_picture(frames, size, box)
    return crop_frames(frames, size, draw_crop_box(size, size, generator=generator))


def _require_rgb(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise OptionError(
            f"frames must be a uint8 array of shape (frames, height, width, 3), "
            f"not {frames.dtype} {frames.shape}"
        )


def _uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    return torch.empty(1).uniform_(low, high, generator=generator).item()


def _integer(end: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(0, end, size=(1,), generator=generator).item())


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> CropBox:
    box_height, box_width = height, width
    if width / height < min(ratio):
        box_height = round(width / min(ratio))
    elif width / height > max(ratio):
        box_width = round(height * max(ratio))
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)

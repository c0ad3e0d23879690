"""What the model is shown, as pictures for people.

They are made from the very arrays that go to the encoders, never from the file: the file is opened
by its decoder alone. What is seen here is what the model sees, in its size.

Legend: T frames, S side of a frame, C clips of a sound, M mel bins, F mel frames.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

_GAP = 4  # columns between two clips of a sound
# From quiet to loud; between these colours it is interpolated.
_COLOURS = np.array(
    [(0, 0, 4), (60, 15, 110), (150, 40, 120), (230, 90, 75), (252, 180, 100), (252, 253, 191)]
)


def frame_pictures(
    frames: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> list[bytes]:
    """T JPEG files of the frames (1, T, 3, S, S), whose normalisation is undone."""
    scale = torch.tensor(std).view(1, 3, 1, 1)
    pixels = frames[0].float() * scale + torch.tensor(mean).view(1, 3, 1, 1)
    colours = pixels.nan_to_num().mul(255).round().clamp(0, 255).byte()
    return [_file(picture.permute(1, 2, 0).numpy(), "JPEG") for picture in colours]


def mel_picture(clips: torch.Tensor) -> bytes:
    """A PNG file of the clips (1, C, 1, M, F), side by side, high pitch above.

    Without the padding at their ends, where all pitches are the same.
    """
    mel = clips[0, :, 0].float().nan_to_num().flip(1)  # (C, M, F)
    sounding = (mel != mel[:, :1]).any(dim=1).any(dim=0).nonzero()
    if len(sounding):
        mel = mel[:, :, : int(sounding[-1]) + 1]
    low, high = (float(mel.quantile(share)) for share in (0.02, 0.999))
    level = ((mel - low) / max(high - low, 1e-6)).clamp(0, 1).numpy()
    places = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(level, places, one) for one in _COLOURS.T], axis=-1)
    count, bins, length = level.shape
    sheet = np.full((bins, count * (length + _GAP) - _GAP, 3), 255, dtype=np.uint8)
    for number, clip in enumerate(colours.round().astype(np.uint8)):
        start = number * (length + _GAP)
        sheet[:, start : start + length] = clip
    return _file(sheet, "PNG")


def _file(pixels: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, form, quality=90)
    return buffer.getvalue()

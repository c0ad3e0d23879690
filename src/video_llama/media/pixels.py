"""A decoded frame to upright RGB.

Decisions: alpha is laid over white (what is under full transparency is noise, never meant to be
seen); 10 bits and more are reduced to 8; pixels that are not square stay as they are stored.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

_QUARTER = 90  # degrees


def upright_rgb(frame: VideoFrame, width: int, height: int) -> np.ndarray:
    """Pixels of a frame as uint8 (H, W, 3), turned upright by its display matrix.

    `width` and `height` are those of the stored picture: a stream that changes its size half-way
    is scaled to the size that it began with.
    """
    # One thread: frames are small, and starting threads costs more than they save.
    if _has_alpha(frame):
        rgba = frame.to_ndarray(format="rgba", width=width, height=height, threads=1)
        rgb = over_white(rgba)
    else:
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
    return np.ascontiguousarray(_turn(rgb, display_matrix(frame)))


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Lay uint8 (H, W, 4) over white: uint8 (H, W, 3)."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if (alpha == 255).all():
        return rgba[..., :3]
    blended = rgba[..., :3] * alpha + 255 * (255 - alpha)
    return ((blended + 127) // 255).astype(np.uint8)


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """The four turning entries (a, b, c, d) of a frame's display matrix, None if it has none.

    A stored point (x, y) is shown at (a x + c y, b x + d y), shifts aside.
    """
    try:
        side: Any = frame.side_data.get("DISPLAYMATRIX")  # a buffer, which PyAV does not tell
    except ValueError:
        # Beside it is something that PyAV has no name for, such as EXIF; then the turn is known,
        # and not whether it is mirrored.
        return _matrix_of(frame.rotation)
    if side is None:
        return None
    entries = np.frombuffer(side, dtype=np.int32)
    return int(entries[0]), int(entries[1]), int(entries[3]), int(entries[4])


def _matrix_of(rotation: int) -> tuple[int, int, int, int] | None:
    """The matrix of a turn by so many degrees counter-clockwise."""
    if not rotation % 360:
        return None
    cosine, sine = (round(part(np.radians(rotation)) * (1 << 16)) for part in (np.cos, np.sin))
    return cosine, -sine, sine, cosine


def rotation_of(matrix: tuple[int, int, int, int] | None) -> int:
    """Degrees counter-clockwise, a multiple of 90, by which a stored picture is turned upright."""
    if matrix is None:
        return 0
    a, b, _, _ = matrix
    return round(np.degrees(np.arctan2(-b, a)) / _QUARTER) * _QUARTER % 360


def swaps_sides(matrix: tuple[int, int, int, int] | None) -> bool:
    """Whether width and height trade places."""
    return matrix is not None and abs(matrix[0]) < abs(matrix[1])


def _turn(rgb: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """Apply the nearest of the eight turns and mirrorings of a square."""
    if matrix is None:
        return rgb
    a, b, c, d = matrix
    if swaps_sides(matrix):
        shown, flip_rows, flip_columns = rgb.transpose(1, 0, 2), b < 0, c < 0
    else:
        shown, flip_rows, flip_columns = rgb, d < 0, a < 0
    return shown[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _has_alpha(frame: VideoFrame) -> bool:
    pixel_format = frame.format
    return pixel_format.has_palette or any(part.is_alpha for part in pixel_format.components)


def stacked(found: dict[int, np.ndarray], indices: Sequence[int]) -> np.ndarray:
    """Frames (H, W, 3) of one size as (T, H, W, 3), in the order of `indices`. Each one is taken
    out of `found`, so that they are not all in memory twice."""
    last = {index: place for place, index in enumerate(indices)}
    first = found[indices[0]]
    frames = np.empty((len(indices), *first.shape), first.dtype)
    for place, index in enumerate(indices):
        frames[place] = found.pop(index) if last[index] == place else found[index]
    return frames

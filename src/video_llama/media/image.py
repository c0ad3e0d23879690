"""Pictures through Pillow: upright by their EXIF orientation, alpha over white, 8 bits.

Animated WebP, PNG and AVIF are short films: the same reader gives their frames. The size is read
from the header and compared before a pixel is decoded.
"""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from video_llama.errors import CorruptMediaError, MediaLimitError, UnsupportedMediaError
from video_llama.media.limits import Deadline, Limits
from video_llama.media.pixels import over_white, stacked
from video_llama.media.source import ByteSource

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
_FILMS = frozenset({"WEBP", "PNG", "AVIF", "GIF"})  # a JPEG or TIFF of several pages is no film
# What Pillow's readers raise for damaged files.
DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, ArithmeticError),
    *(RuntimeError, struct.error, zlib.error),
)
_AVIF = (b"ftypavif", b"ftypavis")
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROTATIONS = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}  # degrees counter-clockwise
# Chooses frames by their seconds, and those of the end.
Pick = Callable[[Sequence[float], float | None], list[int]]
_DEFAULT_FRAME = 0.1  # seconds of a frame whose duration is 0, as browsers show it


@dataclass(frozen=True)
class Pictures:
    """What a picture file holds.

    Attributes:
        pixels: uint8 (T, H, W, 3); None when only the header was asked for.
        times: seconds of the returned frames.
        indices: their numbers.
        count: frames in the file.
        duration: seconds of a film, None for a picture.
        codec, width, height, rotation: as in VideoStreamInfo.
    """

    pixels: np.ndarray | None
    times: tuple[float, ...]
    indices: tuple[int, ...]
    count: int
    duration: float | None
    codec: str
    width: int
    height: int
    rotation: int


def open_picture(file: BinaryIO | ByteSource, name: str, limits: Limits) -> Image.Image:
    """Read the header of a picture.

    Raises:
        UnsupportedMediaError: no picture, or of a format that is not read.
        MediaLimitError: more pixels than are allowed.
        CorruptMediaError: a damaged header.
    """
    try:
        image = Image.open(cast(BinaryIO, file), formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(4)
        if file.read(8) in _AVIF:  # whose beginning alone is not looked at
            raise CorruptMediaError(f"{name} is a damaged picture") from None
        raise UnsupportedMediaError(f"{name} is not a picture that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow refuses from here on
        told = "; raise PIL.Image.MAX_IMAGE_PIXELS too" if limits.pixels > most else ""
        raise MediaLimitError(
            f"{name} is larger than a picture may be; at most {min(most, limits.pixels):,} pixels "
            f"are decoded{told}"
        ) from None
    except DAMAGE:
        raise CorruptMediaError(f"{name} is a damaged picture") from None
    limits.check_pixels(image.width, image.height, name)
    return image


def read_picture(
    image: Image.Image, name: str, limits: Limits, deadline: Deadline, pick: Pick | None
) -> Pictures:
    """Decode a picture, or the frames of an animated one that `pick` chooses; none without it.

    Raises:
        CorruptMediaError: it is cut short or damaged.
        MediaLimitError: it has more frames or seconds than are allowed, or its deadline passed.
    """
    # A TIFF is turned by Pillow, which has changed its size already and forgets the tag.
    orientation = orientation_of(image)
    turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"
    upright = image.size[::-1] if turned else image.size
    try:
        times, duration = _timeline(image, name, limits, deadline)
        indices = pick(times, duration) if pick is not None else []
        limits.check_frames(len(indices), name)
        limits.check_all_pixels(len(indices), *image.size, name)
        found: dict[int, np.ndarray] = {}
        for index in sorted(set(indices)):
            deadline.check()
            if len(times) > 1:
                image.seek(index + _hidden(image))
            found[index] = to_rgb(image)
    except DAMAGE:
        raise CorruptMediaError(f"{name} is a damaged picture: it does not decode") from None
    return Pictures(
        pixels=stacked(found, indices) if indices else None,
        times=tuple(times[index] for index in indices),
        indices=tuple(indices),
        count=len(times),
        duration=duration,
        codec=(image.format or "raw").lower(),
        width=upright[0],
        height=upright[1],
        rotation=_ROTATIONS.get(orientation, 0),
    )


def read_frame_files(
    pictures: Sequence[bytes], name: str, limits: Limits, deadline: Deadline, wanted: list[int]
) -> dict[int, np.ndarray]:
    """Decode some of a list of encoded pictures, which must all have one size.

    Raises:
        UnsupportedMediaError: they differ in size, or one is no picture.
    """
    found: dict[int, np.ndarray] = {}
    for index in wanted:
        label = f"frame {index} of {name}"
        with open_picture(io.BytesIO(pictures[index]), label, limits) as image:
            limits.check_all_pixels(len(wanted), *image.size, name)
            pixels = read_picture(image, label, limits, deadline, lambda *_: [0]).pixels
        found[index] = cast(np.ndarray, pixels)[0]
    sizes = {frame.shape for frame in found.values()}
    if len(sizes) > 1:
        raise UnsupportedMediaError(f"the frames of {name} differ in size; give one size")
    return found


def to_rgb(image: Image.Image) -> np.ndarray:
    """A picture as upright uint8 (H, W, 3)."""
    image.load()  # a TIFF is turned by that
    turn = _TURNS.get(orientation_of(image))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _wide_to_rgb(upright)
    if upright.has_transparency_data:
        return over_white(np.asarray(upright.convert("RGBA")))
    return np.array(upright.convert("RGB"))


def orientation_of(image: Image.Image) -> int:
    """As EXIF has it; 1, upright, where that is damaged: the picture need not be."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:
        return 1


def _wide_to_rgb(image: Image.Image) -> np.ndarray:
    """Grey of 16 bits or floats, which Pillow would cut off at 255 instead of scaling."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    brightest = values.max(initial=0.0)
    if image.mode == "F" and brightest <= 1.0:
        values = values * 255.0
    elif image.mode not in ("F", "I") or brightest > 255.0:  # of which 8 bits are as usual
        values = values / 257.0
    grey = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _hidden(image: Image.Image) -> int:
    """Frames of an animated PNG for programs that show no animation: the first, or none."""
    return int(bool(image.info.get("default_image", False)))


def _timeline(
    image: Image.Image, name: str, limits: Limits, deadline: Deadline
) -> tuple[list[float], float | None]:
    """Seconds of every frame, and the length of the film."""
    hidden = _hidden(image)
    count = getattr(image, "n_frames", 1) - hidden if image.format in _FILMS else 1
    if count <= 1:
        return [0.0], None
    limits.check_animation(count, name)
    times, now = [], 0.0
    for index in range(count):
        deadline.check()
        image.seek(index + hidden)
        image.load()  # only then is the duration of a WebP frame known
        times.append(now)
        now += image.info.get("duration", 0) / 1000 or _DEFAULT_FRAME
        limits.check_duration(now, name)
    image.seek(0)
    return times, now

"""Pictures: upright, RGB, and never decoded when their header says they are too large."""

import io
import struct
import zlib

import numpy as np
import pytest
from make import picture
from PIL import Image

from video_llama.errors import (
    CorruptMediaError,
    MediaError,
    MediaLimitError,
    OptionError,
    UnsupportedMediaError,
)
from video_llama.media.reader import Limits, load_media, probe


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_pictures_keep_every_pixel(kind: str) -> None:
    rgb = picture(3)
    clip = load_media(encode(Image.fromarray(rgb), kind))
    assert clip.info.kind == "image"
    assert clip.info.duration is None
    assert np.array_equal(clip.frames, rgb[None])
    assert clip.times == (0.0,)
    assert clip.indices == (0,)
    assert not clip.has_sound


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_pictures_look_right(kind: str) -> None:
    rgb = picture(3)
    frames = load_media(encode(Image.fromarray(rgb), kind, quality=95)).frames
    assert np.abs(frames[0].astype(int) - rgb).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(picture(0)), kind, exif=exif)
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    clip = load_media(data)
    assert np.array_equal(clip.frames[0], turns[orientation](picture(0)))
    assert (clip.info.video.height, clip.info.video.width) == clip.frames.shape[1:3]
    assert probe(data) == clip.info


def test_alpha_grey_palette_and_print_colours() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (10, 20, 30, 255)
    frame = load_media(encode(Image.fromarray(rgba, "RGBA"), "PNG")).frames[0]
    assert tuple(frame[0, 0]) == (10, 20, 30)
    assert tuple(frame[3, 3]) == (255, 255, 255)
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert (load_media(encode(Image.fromarray(grey), "PNG")).frames[0, ..., 1] == grey).all()
    palette = Image.fromarray(picture(0)).convert("P")
    assert load_media(encode(palette, "PNG")).frames.shape == (1, 48, 64, 3)
    cmyk = Image.fromarray(picture(0)).convert("CMYK")
    assert load_media(encode(cmyk, "JPEG")).frames.shape == (1, 48, 64, 3)


def test_sixteen_bits_are_scaled_not_cut() -> None:
    wide = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    frame = load_media(encode(Image.fromarray(wide), "PNG")).frames[0]
    assert np.abs(frame[..., 0].astype(int) - wide / 257).max() <= 1


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_animated_pictures_are_films(kind: str) -> None:
    frames = [Image.fromarray(picture(index)) for index in range(6)]
    data = encode(
        frames[0], kind, save_all=True, append_images=frames[1:], duration=200, lossless=True
    )
    clip = load_media(data, num_frames=3)
    assert clip.info.kind == "video"
    assert clip.info.duration == pytest.approx(1.2)
    assert clip.info.video.num_frames == 6
    assert clip.indices == (0, 2, 4)
    assert clip.times == pytest.approx((0.0, 0.4, 0.8))
    assert np.array_equal(clip.frames[1], picture(2))


@pytest.mark.parametrize(
    ("limit", "words"),
    [({"duration": 1.1}, "seconds"), ({"animation": 5}, "more than 5 frames")],
)
@pytest.mark.parametrize("kind", ["WEBP", "PNG", "AVIF", "GIF"])
def test_animated_pictures_have_the_limits_of_films(kind: str, limit: dict, words: str) -> None:
    frames = [Image.fromarray(picture(index)) for index in range(6)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=200)
    assert load_media(data, num_frames=2, limits=Limits(duration=1.2, animation=6)).info.duration
    for read in (probe, load_media):
        with pytest.raises(MediaLimitError, match=words):
            read(data, limits=Limits(**limit))


def test_an_animation_that_promises_too_many_frames_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = [Image.fromarray(picture(index)) for index in range(6)]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(MediaLimitError, match="give it as a video"):
        load_media(data, limits=Limits(animation=5))


def test_content_decides_not_the_name(tmp_path) -> None:
    path = tmp_path / "film.jpg"
    path.write_bytes(encode(Image.fromarray(picture(0)), "WEBP", lossless=True))
    assert load_media(path).info.container == "webp"
    path = tmp_path / "picture.mp4"
    path.write_bytes(encode(Image.fromarray(picture(0)), "PNG"))
    assert load_media(path).info.kind == "image"


def huge_png(side: int) -> bytes:
    """A few hundred bytes that claim to be side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_too_many_pixels_are_refused_by_the_header() -> None:
    for read in (probe, load_media):
        with pytest.raises(MediaLimitError, match="pixels"):
            read(huge_png(40_000))
        with pytest.raises(MediaLimitError, match="pixels"):
            read(encode(Image.fromarray(picture(0)), "PNG"), limits=Limits(pixels=1000))


def test_damaged_pictures_say_so() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "WEBP"):
        data = encode(Image.fromarray(rgb), kind)
        with pytest.raises((CorruptMediaError, UnsupportedMediaError), match=r"damaged|picture"):
            load_media(data[: len(data) // 2])


def test_a_picture_of_pillow_is_a_source() -> None:
    clip = load_media(Image.fromarray(picture(1)))
    assert np.array_equal(clip.frames[0], picture(1))
    assert clip.info.kind == "image"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100), "JPEG 2000"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "SVG"),
    ],
)
def test_pictures_that_are_not_read_are_named(data: bytes, words: str) -> None:
    with pytest.raises(UnsupportedMediaError, match=words):
        load_media(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_damaged_exif_does_not_spoil_a_picture(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(buffer, kind, exif=b"Exif\0\0garbagegarbage")
    assert load_media(buffer.getvalue()).frames.shape == (1, 40, 60, 3)


def test_an_animation_of_pillow_is_a_film() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=200)
    clip = load_media(Image.open(buffer))
    assert clip.info.kind == "video"
    assert [tuple(frame[0, 0]) for frame in clip.frames] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def test_the_picture_for_those_who_show_no_animation_is_no_frame() -> None:
    colours = ("white", "red", "green", "blue")
    still, *frames = (Image.new("RGB", (20, 20), colour) for colour in colours)
    buffer = io.BytesIO()
    still.save(buffer, "PNG", save_all=True, append_images=frames, duration=200, default_image=True)
    for source in (buffer.getvalue(), Image.open(buffer)):
        clip = load_media(source)
        shown = [tuple(frame[0, 0]) for frame in clip.frames]
        assert shown == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
        assert (clip.info.duration, clip.info.video.num_frames) == (pytest.approx(0.6), 3)


def test_the_limit_of_pillow_is_named_where_it_is_the_one(monkeypatch) -> None:
    buffer = io.BytesIO()
    Image.new("L", (300, 100)).save(buffer, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(MediaLimitError, match=r"20,000 pixels .*; raise PIL.Image.MAX_IMAGE"):
        load_media(buffer.getvalue())


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "AVIF", "GIF"])
def test_the_last_frame_of_an_animation_is_shown_for_its_own_time(kind: str) -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), 60 * level, np.uint8)) for level in range(3)]
    data = encode(
        frames[0], kind, save_all=True, append_images=frames[1:], duration=[100, 100, 5000]
    )
    assert load_media(data, times=[3.0]).indices == (2,)
    with pytest.raises(OptionError, match="no frame at 6 s"):
        load_media(data, times=[6.0])


def test_damaged_avif_says_so() -> None:
    frames = [Image.fromarray(picture(index)) for index in range(4)]
    whole = encode(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    for size in (len(whole) // 3, len(whole) * 9 // 10):
        with pytest.raises(CorruptMediaError, match="damaged picture"):
            load_media(whole[:size])
    rng, broken = np.random.default_rng(0), 0
    for place in rng.integers(len(whole) // 2, len(whole), 40):
        data = bytearray(whole)
        data[place] ^= 0xFF
        try:
            load_media(bytes(data))
        except MediaError:
            broken += 1
    assert broken


def test_bigtiff_and_pictures_without_pixels() -> None:
    data = encode(Image.fromarray(picture(0)), "TIFF", big_tiff=True)
    assert np.array_equal(load_media(data).frames[0], picture(0))
    with pytest.raises(UnsupportedMediaError, match="no width or height"):
        load_media(Image.new("RGB", (0, 5)))


def test_whole_numbers_of_eight_bits_are_as_bright_as_they_are() -> None:
    grey = Image.fromarray(np.array([[0, 128, 255]], np.int32))
    assert load_media(grey).frames[0, 0, :, 0].tolist() == [0, 128, 255]


def test_floats_of_any_full_scale() -> None:
    for full in (1.0, 255.0, 65535.0):
        picture = Image.fromarray(np.array([[0.0, full / 2, full]], np.float32))
        assert load_media(picture).frames[0, 0, :, 0].tolist() == [0, 128, 255]

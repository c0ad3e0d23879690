"""Every form in which media can be given, and every place that is refused."""

import base64
import io
import os
import subprocess
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from make import Film, Tone, picture, write
from PIL import Image

from video_llama.errors import (
    ForbiddenSourceError,
    MediaLimitError,
    MediaNotFoundError,
    OptionError,
    UnsupportedMediaError,
)
from video_llama.media.reader import Limits, load_media, probe


@pytest.fixture(scope="module")
def clip() -> bytes:
    return write(Film(count=12, tones=(Tone(seconds=1.0),)))


@pytest.fixture(scope="module")
def expected(clip: bytes):
    return load_media(clip)


def same(a, b) -> bool:
    return np.array_equal(a.frames, b.frames) and np.array_equal(a.sound, b.sound)


def test_bytes_paths_and_file_objects_are_one_medium(clip, expected, tmp_path: Path) -> None:
    path = tmp_path / "a clip.mp4"
    path.write_bytes(clip)
    assert same(load_media(path), expected)
    assert same(load_media(str(path)), expected)
    assert same(load_media(bytearray(clip)), expected)
    assert probe(path).name == "a clip.mp4"
    assert probe(path).size_bytes == len(clip)
    with path.open("rb") as file:
        file.seek(100)
        assert same(load_media(file), expected)
        assert same(load_media(file), expected)
        assert not file.closed


def test_a_stream_that_cannot_seek_is_read_whole(clip, expected) -> None:
    reader, writer = os.pipe()

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.source = io.BytesIO(clip)

        def readable(self) -> bool:
            return True

        def read(self, count: int = -1) -> bytes:
            return self.source.read(count)

        def seekable(self) -> bool:
            return False

    os.close(reader)
    os.close(writer)
    assert same(load_media(Pipe()), expected)


def test_a_short_path_like_string_is_a_path(tmp_path: Path, monkeypatch, clip) -> None:
    monkeypatch.chdir(tmp_path)
    Path("concat:a.mp4").write_bytes(clip)
    assert load_media("concat:a.mp4").frames is not None
    with pytest.raises(MediaNotFoundError, match=r"subfile,,"):
        load_media("subfile,,start,0,end,0,,:/etc/passwd")


def test_data_urls(clip, expected) -> None:
    text = base64.b64encode(clip).decode()
    assert same(load_media(f"data:video/mp4;base64,{text}"), expected)
    assert same(load_media(f"data:image/png;base64,{text.rstrip('=')}"), expected)
    assert same(load_media(f"data:video/mp4;base64,{quote(text)}"), expected)
    assert same(load_media(f"DATA:;base64,{text[:80]}\n{text[80:]}"), expected)
    assert same(load_media("data:video/mp4," + quote(clip)), expected)


def jpeg(index: int, size: tuple[int, int] = (64, 48)) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture(index, size)).save(buffer, "JPEG", quality=95)
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_list_of_frames_in_a_data_url() -> None:
    url = "data:video/jpeg;base64," + ",".join(jpeg(index) for index in range(10))
    clip = load_media(url, num_frames=5)
    assert clip.frames.shape == (5, 48, 64, 3)
    assert clip.indices == (0, 2, 4, 6, 8)
    assert clip.times == (0.0, 2.0, 4.0, 6.0, 8.0)
    assert any("one a second" in warning for warning in clip.warnings)
    assert clip.info.kind == "video"
    assert probe(url).video.num_frames == 10
    assert np.abs(clip.frames[1].astype(int) - picture(2)).mean() < 6


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("data:video/mp4;base64", UnsupportedMediaError, "comma"),
        ("data:video/mp4;base64,!!!!", UnsupportedMediaError, "base64"),
        ("data:video/mp4;base64,", MediaNotFoundError, "empty"),
        ("data:video/jpeg;base64,", MediaNotFoundError, "empty"),
        ("data:text/plain,hello", UnsupportedMediaError, "not a video"),
    ],
)
def test_data_urls_that_hold_no_media(url: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_media(url)


def test_frames_of_a_list_must_agree_and_are_bounded() -> None:
    with pytest.raises(UnsupportedMediaError, match="differ in size"):
        load_media(f"data:video/jpeg;base64,{jpeg(0)},{jpeg(1, (32, 48))}")
    many = "data:video/jpeg;base64," + ",".join(["AAAA"] * 2000)
    with pytest.raises(MediaLimitError, match="2000 frames"):
        load_media(many)


def test_data_urls_are_measured_before_they_are_decoded() -> None:
    with pytest.raises(MediaLimitError, match="bytes"):
        load_media("data:video/mp4;base64," + "A" * 10_000, limits=Limits(bytes=1000))


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "file:/etc/passwd", "rtsp://host/a", "ftp://host/a.mp4", "s3://b/a.mp4"],
)
def test_other_places_are_refused(url: str) -> None:
    with pytest.raises(ForbiddenSourceError, match="not opened"):
        load_media(url)


def test_an_address_without_its_slashes_is_no_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:clip").write_bytes(b"x")
    for url in ("http:clip", "https:../clip", "HTTP:/clip"):
        with pytest.raises(ForbiddenSourceError, match="with a host"):
            load_media(url)


def test_hosts_are_refused_by_default() -> None:
    with pytest.raises(ForbiddenSourceError, match=r"example\.org are not allowed"):
        load_media("https://example.org/clip.mp4")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError, match=r"no such file: nowhere\.mp4"):
        load_media("nowhere.mp4")
    with pytest.raises(MediaNotFoundError, match="directory"):
        load_media(tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaNotFoundError, match=r"empty\.mp4 is empty"):
        load_media(tmp_path / "empty.mp4")
    with pytest.raises(MediaNotFoundError, match="empty"):
        load_media(b"")
    with pytest.raises(MediaNotFoundError, match="not valid"):
        load_media("a\0b.mp4")
    with pytest.raises(MediaNotFoundError):
        load_media("x" * 5000)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a system without /dev/zero")
def test_devices_are_no_media() -> None:
    with pytest.raises(UnsupportedMediaError, match="device"):
        load_media("/dev/zero")


def test_what_is_no_media() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "text")
    noise = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    for data in (b"hello, world\n" * 50, b"%PDF-1.7\n" + bytes(500), archive.getvalue(), noise):
        with pytest.raises(UnsupportedMediaError):
            load_media(data)
    with pytest.raises(UnsupportedMediaError, match="int is no media source"):
        load_media(3)
    with pytest.raises(UnsupportedMediaError, match="binary mode"):
        load_media(io.StringIO("text"))


def test_a_wrong_name_changes_nothing(tmp_path: Path, clip, expected) -> None:
    for name in ("clip.jpg", "clip.txt", "clip.m3u8", "clip"):
        path = tmp_path / name
        path.write_bytes(clip)
        assert same(load_media(path), expected)


def test_options_of_limits_are_checked() -> None:
    with pytest.raises(OptionError, match="'pixels'"):
        Limits(pixels=0)


def test_a_pipe_gives_less_at_a_time_than_it_is_asked_for(clip, expected, tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(clip)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE, bufsize=0) as process:
        given = load_media(process.stdout)
    assert given.info.size_bytes == len(clip)
    assert given.info.name == "the given file"
    assert same(given, expected)


def test_a_pipe_is_read_to_the_limit_and_not_beyond() -> None:
    class Endless(io.RawIOBase):
        def read(self, count: int = -1) -> bytes:
            assert count < 1 << 24
            return bytes(count)

        def seekable(self) -> bool:
            return False

    with pytest.raises(MediaLimitError, match="bytes"):
        load_media(Endless(), limits=Limits(bytes=10 << 20))


def test_files_that_are_closed_or_do_not_wait() -> None:
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(MediaNotFoundError, match="is closed"):
        load_media(closed)

    class Hasty(io.RawIOBase):
        def read(self, count: int = -1) -> bytes | None:
            return b"" if count == 0 else None

    with pytest.raises(UnsupportedMediaError, match="does not wait"):
        load_media(Hasty())
    with pytest.raises(MediaNotFoundError, match="empty"):
        load_media("")

"""Where media may come from, and how each kind of source becomes readable bytes.

A source is a path, bytes, a file object, a `data:` URL, an `http(s)` URL whose host is allowed, a
picture of Pillow, or arrays that are already decoded. Nothing else is ever opened: no `file://`,
and nothing that the given bytes refer to.
"""

import base64
import binascii
import io
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

import numpy as np
import torch
from PIL import Image

from video_llama.errors import (
    ForbiddenSourceError,
    MediaNotFoundError,
    UnsupportedMediaError,
)
from video_llama.media.fetch import SourcePolicy, fetch
from video_llama.media.limits import Deadline, Limits

__all__ = [
    "ByteSource",
    "FrameFiles",
    "FramesArray",
    "Limits",
    "MediaSource",
    "SoundArray",
    "SourcePolicy",
    "open_source",
]

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):(//)?")
_PIECE = 1 << 20  # bytes read of a pipe at a time
_BASE64_CHARS = 4 / 3  # characters per byte


@dataclass(frozen=True)
class SoundArray:
    """Sound that is already decoded.

    Attributes:
        samples: (N,) or (C, N), floats in [-1, 1] or integers of full scale.
        rate: samples per second.
    """

    samples: "np.ndarray | torch.Tensor"
    rate: int


@dataclass(frozen=True)
class FramesArray:
    """Frames that are already decoded.

    Attributes:
        frames: (T, H, W, 3) or (H, W, 3), RGB; uint8, or floats in [0, 1].
        times: seconds of each frame, ascending; or
        fps: frames per second, when they are evenly spaced. With neither, one a second is assumed.
        sound: the sound that belongs to them.
    """

    frames: "np.ndarray | torch.Tensor"
    times: Sequence[float] | None = None
    fps: float | None = None
    sound: SoundArray | None = None


@dataclass(frozen=True)
class FrameFiles:
    """Frames that were taken before: encoded pictures, as `data:video/jpeg;base64,f1,f2` brings."""

    pictures: tuple[bytes, ...]


MediaSource = (
    str
    | os.PathLike[str]
    | bytes
    | BinaryIO
    | np.ndarray
    | torch.Tensor
    | FramesArray
    | SoundArray
    | FrameFiles
    | Image.Image
)


class ByteSource:
    """Bytes that can be read and searched, within a deadline that begins now.

    It is the file object that FFmpeg and Pillow are given; it has no `name`, so that the bytes
    alone decide what they are. A context manager: it closes what was opened here, never a file
    object that was given.
    """

    def __init__(self, file: BinaryIO, name: str, size: int, limits: Limits, *, owned: bool):
        self.label = name  # what to call it in messages
        self.size = size
        self.deadline = Deadline(limits.deadline, name)
        self._file = file
        self._owned = owned

    def read(self, count: int = -1) -> bytes:
        """Read, unless the deadline has passed: a reader that loops is stopped here."""
        self.deadline.check()
        return self._file.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as a file object does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Tell the position as a file object does."""
        return self._file.tell()

    def head(self, count: int) -> bytes:
        """The first `count` bytes; the position is the beginning afterwards."""
        self.seek(0)
        data = self.read(count)
        self.seek(0)
        return data

    def __enter__(self) -> "ByteSource":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._owned:
            self._file.close()


def open_source(
    source: MediaSource, limits: Limits, policy: SourcePolicy
) -> "ByteSource | FramesArray | SoundArray | FrameFiles | Image.Image":
    """Turn a source into bytes on hand; arrays and pictures in memory pass through.

    Raises:
        MediaNotFoundError: nothing there, a directory, no bytes.
        MediaLimitError: more bytes than are allowed.
        ForbiddenSourceError: a place that is not allowed.
        UnsupportedMediaError: a value of a kind that is no source.
    """
    if isinstance(source, (FramesArray, SoundArray, FrameFiles, Image.Image)):
        return source
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return FramesArray(source)
    if isinstance(source, str) and (scheme := scheme_of(source)):
        return _open_url(source.lstrip(), scheme, limits, policy)
    if source == "":
        raise MediaNotFoundError("the name of a file is empty")
    if isinstance(source, (str, os.PathLike)):
        return _open_path(Path(source), limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_bytes(bytes(source), "the given data", limits)
    if hasattr(source, "read"):
        return _open_file_object(source, limits)
    raise UnsupportedMediaError(
        f"a {type(source).__name__} is no media source; give a path, bytes, a file object, "
        "a data: URL, or arrays"
    )


def scheme_of(text: str) -> str | None:
    """The scheme of an address, or None for a path.

    A colon alone does not make an address, except after the schemes that are opened here: an
    address that was written wrong is never taken for a path.
    """
    match = _SCHEME.match(text.lstrip())
    if match is None:
        return None
    scheme = match.group(1).lower()
    return scheme if match.group(2) or scheme in ("data", "file", "http", "https") else None


def _open_url(
    url: str, scheme: str, limits: Limits, policy: SourcePolicy
) -> ByteSource | FrameFiles:
    if scheme == "data":
        return _open_data_url(url, limits)
    if scheme in ("http", "https"):
        deadline = Deadline(limits.deadline, "the address")
        data, name = fetch(url, limits, policy, deadline)
        return _open_bytes(data, name, limits)
    raise ForbiddenSourceError(
        f"{scheme}: addresses are not opened; give a path, bytes, a data: URL, or an http(s) "
        "address whose host is allowed"
    )


def _open_data_url(url: str, limits: Limits) -> ByteSource | FrameFiles:
    header, comma, payload = url.partition(",")
    if not comma:
        raise UnsupportedMediaError("a data: URL has the form data:TYPE;base64,DATA; no comma here")
    name = "the data: URL"
    parameters = header[len("data:") :].lower().split(";")
    if "base64" not in parameters[1:]:
        limits.check_bytes(len(payload) // 3, name)  # at most three characters a byte
        return _open_bytes(_unquote(payload, name), name, limits)
    limits.check_bytes(int(len(payload) / _BASE64_CHARS) - 2, name)
    if parameters[0] != "video/jpeg":
        return _open_bytes(_decode_base64(payload, name), name, limits)
    limits.check_frames(payload.count(",") + 1, name)
    pictures = tuple(_decode_base64(part, name) for part in payload.split(","))
    if not all(pictures):
        raise MediaNotFoundError(f"{name} holds an empty frame")
    return FrameFiles(pictures)


def _unquote(payload: str, name: str) -> bytes:
    try:
        return unquote_to_bytes(payload)
    except UnicodeEncodeError:
        raise UnsupportedMediaError(f"{name} is not text in UTF-8") from None


def _decode_base64(payload: str, name: str) -> bytes:
    # Clients percent-encode, wrap lines and leave out the padding.
    text = _unquote(payload, name) if "%" in payload else payload.encode("ascii", "replace")
    text = b"".join(text.split())
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise UnsupportedMediaError(f"{name} is not valid base64") from None


def _open_path(path: Path, limits: Limits) -> ByteSource:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MediaNotFoundError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise MediaNotFoundError(f"{path.name} cannot be read: {_reason(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise MediaNotFoundError(f"{path} is a directory; give a media file")
    if not stat.S_ISREG(status.st_mode):
        raise UnsupportedMediaError(f"{path} is a device or a pipe; give a media file")
    _check_size(status.st_size, path.name, limits)
    try:
        opened: BinaryIO = path.open("rb")
    except OSError as error:
        raise MediaNotFoundError(f"{path.name} cannot be read: {_reason(error)}") from None
    return ByteSource(opened, path.name, status.st_size, limits, owned=True)


def _open_bytes(data: bytes, name: str, limits: Limits) -> ByteSource:
    _check_size(len(data), name, limits)
    return ByteSource(io.BytesIO(data), name, len(data), limits, owned=True)


def _open_file_object(file: BinaryIO, limits: Limits) -> ByteSource:
    given = getattr(file, "name", None)  # of a pipe it is a number
    name = Path(os.fsdecode(given)).name if isinstance(given, (str, bytes, os.PathLike)) else ""
    name = name or "the given file"
    if getattr(file, "closed", False):
        raise MediaNotFoundError(f"{name} is closed; give it while it is open")
    if not isinstance(file.read(0), bytes):
        raise UnsupportedMediaError(f"{name} is open as text; open it in binary mode ('rb')")
    seekable = getattr(file, "seekable", None)
    if seekable is not None and seekable():
        size = file.seek(0, os.SEEK_END)
        _check_size(size, name, limits)
        return ByteSource(file, name, size, limits, owned=False)
    return _open_bytes(_read_all(file, name, limits), name, limits)


def _read_all(file: BinaryIO, name: str, limits: Limits) -> bytes:
    """All that a pipe gives: it may give less at a time than it is asked for."""
    parts, size = [], 0
    while part := file.read(_PIECE):
        parts.append(part)
        size += len(part)
        limits.check_bytes(size, name)
    if part is None:
        raise UnsupportedMediaError(f"{name} does not wait for its data; give one that blocks")
    return b"".join(parts)


def _check_size(size: int, name: str, limits: Limits) -> None:
    if size == 0:
        raise MediaNotFoundError(f"{name} is empty")
    limits.check_bytes(size, name)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the name is not valid"

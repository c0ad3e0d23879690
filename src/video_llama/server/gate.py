"""The one way in for media: every source of every request goes through `MediaGate.open`.

Nothing is allowed unless it was: no folder, no host. What passes has become bytes with a checksum;
neither paths nor addresses go further, so no decoder can open anything. Messages say what is wrong
with a source and not what is there: whoever asks must not learn which files or machines exist.
"""

import hashlib
import math
import os
import re
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from video_llama.errors import (
    ForbiddenSourceError,
    MediaLimitError,
    MediaNotFoundError,
    OptionError,
)
from video_llama.media.limits import Limits
from video_llama.media.source import ByteSource, FrameFiles, SourcePolicy, open_source
from video_llama.server.files import FILE_PREFIX, FileStore

Kind = Literal["image", "video", "audio", "file"]

# What begins otherwise is no address: `open_source` would take it for the path of a local file.
_SCHEME = re.compile(r"(?:(data|file):|(https?)://)", re.IGNORECASE)
MEGABYTE = 1 << 20
SOUND_VALUES = 256 * MEGABYTE // 4  # decoded, of 4 bytes each
SOUND_RATE = 48_000 * 2  # values of a second, both channels


def decoding_limits(
    file_bytes: int = 256 * MEGABYTE, duration: float = 3600.0
) -> dict[Kind, Limits]:
    """Limits by kind: a video, or any file, has so many bytes and seconds at most.

    Parts for a picture or a sound alone bring less.
    """
    film = Limits(
        bytes=file_bytes,
        duration=duration,
        all_pixels=1_000_000_000,
        streams=16,
        samples=math.ceil(duration * SOUND_RATE),
        frames=128,
        deadline=60,
    )
    picture = replace(film, bytes=min(file_bytes, 64 * MEGABYTE), samples=SOUND_VALUES, deadline=20)
    sound = replace(
        film,
        bytes=min(file_bytes, 25 * MEGABYTE),
        duration=min(duration, 600.0),
        samples=SOUND_VALUES,
        deadline=30,
    )
    return {"image": picture, "video": film, "audio": sound, "file": film}


def fetching_seconds(film: float = 30.0) -> dict[Kind, float]:
    """Deadlines of downloads by kind: a picture has a sixth of a video's, a sound a third."""
    return {"image": film / 6, "video": film, "audio": film / 3, "file": film}


@dataclass(frozen=True)
class GatePolicy:
    """What the gate lets in. The default is closed: only what a request brings itself.

    Attributes:
        folders: local files under these are opened; links are followed first.
        sources: which hosts are fetched from.
        limits: of a medium, by the kind of part that brings it; `deadline` is that of decoding.
        fetch_seconds: deadline of a download, likewise.

    Raises:
        OptionError: a folder that is none.
    """

    folders: tuple[Path, ...] = ()
    sources: SourcePolicy = field(default_factory=SourcePolicy)
    limits: Mapping[Kind, Limits] = field(default_factory=decoding_limits)
    fetch_seconds: Mapping[Kind, float] = field(default_factory=fetching_seconds)

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not folder.is_dir():
                raise OptionError(f"{folder} is no folder; --allow-folder wants one that exists")
        object.__setattr__(self, "folders", tuple(folder.resolve() for folder in self.folders))


@dataclass(frozen=True)
class Opened:
    """A medium that was let in.

    Attributes:
        source: its bytes, or those of its frames.
        digest: SHA-256 of them.
        limits: that hold while it is decoded.
    """

    source: bytes | FrameFiles
    digest: str
    limits: Limits


class MediaGate:
    """Opens sources, or refuses them. Of several threads at the same time, too."""

    def __init__(self, policy: GatePolicy, files: FileStore | None = None) -> None:
        self.policy = policy
        self.files = files

    def open(
        self, kind: Kind, place: str, *, owner: str = "", gone: threading.Event | None = None
    ) -> Opened:
        """Let a source in.

        Args:
            kind: of the part of a message that names it.
            place: a data: URL, an http(s) or file: URL, or the id of an uploaded file.
            owner: whose uploaded files may be meant.
            gone: set when nobody waits for it any more: then a download ends where it is.

        Raises:
            MediaError: one of its kinds; the message tells nothing the asker did not know.
            Refusal: there is no such uploaded file.
        """
        limits = self.policy.limits[kind]
        source = self._read(kind, place, limits, owner, gone)
        return Opened(source, digest(source), limits)

    def _read(
        self, kind: Kind, place: str, limits: Limits, owner: str, gone: threading.Event | None
    ) -> bytes | FrameFiles:
        if place.startswith(FILE_PREFIX) and self.files is not None:
            return self.files.read(owner, place, limits)
        match = _SCHEME.match(place)
        scheme = (match[1] or match[2]).lower() if match else ""
        if scheme == "data":
            return _content(place, limits, SourcePolicy())
        if scheme in ("http", "https"):
            return self._fetch(kind, place, limits, gone)
        if scheme == "file":
            return self._read_local(place, limits)
        raise ForbiddenSourceError(
            "a medium is given as a data: URL, as an http(s) address of an allowed host, or as the "
            "id of an uploaded file"
        )

    def _fetch(
        self, kind: Kind, address: str, limits: Limits, gone: threading.Event | None
    ) -> bytes | FrameFiles:
        seconds = self.policy.fetch_seconds[kind]
        sources = replace(self.policy.sources, gone=gone)
        try:
            return _content(address, replace(limits, deadline=seconds), sources)
        except ForbiddenSourceError:
            # A redirect's target, or where a name leads, is nothing the asker need learn.
            raise ForbiddenSourceError(
                "media from this address are not allowed; upload the file, or send it as a data: "
                "URL"
            ) from None
        except MediaNotFoundError:
            raise MediaNotFoundError("there is no file to fetch at this address") from None
        except MediaLimitError:
            raise MediaLimitError(
                f"the file at this address is too large, or comes too slowly: at most "
                f"{limits.bytes:,} bytes are fetched within {seconds:g} seconds"
            ) from None

    def _read_local(self, address: str, limits: Limits) -> bytes:
        # One message for all: outside, absent, a folder, a device, not readable.
        refused = ForbiddenSourceError(
            "this file is not there, or not in a folder from which files may be read"
        )
        try:
            parts = urlsplit(address)
            given = Path(unquote(parts.path, errors="strict"))
            path = given.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            raise refused from None
        inside = any(path.is_relative_to(folder) for folder in self.policy.folders)
        if not inside or parts.netloc not in ("", "localhost") or not given.is_absolute():
            raise refused
        try:
            return _read_regular(path, limits)
        except OSError:
            raise refused from None


def digest(source: bytes | FrameFiles) -> str:
    """SHA-256 of a medium; a list of frames is never taken for a file, nor cut another way."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    each = [hashlib.sha256(picture).digest() for picture in source.pictures]
    return hashlib.sha256(b"frames:" + b"".join(each)).hexdigest()


def _content(place: str, limits: Limits, policy: SourcePolicy) -> bytes | FrameFiles:
    opened = open_source(place, limits, policy)
    if isinstance(opened, FrameFiles):
        return opened
    assert isinstance(opened, ByteSource)
    with opened:
        return opened.read()


def _read_regular(path: Path, limits: Limits) -> bytes:
    """A regular file that is still where it was when the folders were compared.

    Raises:
        OSError: it is not, or cannot be read.
    """
    # Not blocking: a pipe without a writer would be waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("not a regular file")
        if path.resolve() != path or not os.path.samestat(found, path.stat()):
            raise OSError("replaced while it was opened")
        limits.check_bytes(found.st_size, "the file")
        data = file.read(limits.bytes + 1)
    limits.check_bytes(len(data), "the file")
    if not data:
        raise MediaNotFoundError("the file is empty")
    return data

"""Uploaded files: kept in a folder of the server's own until they expire.

A file belongs to the key it came with; nobody else sees it. Its name is only repeated to its owner
and never becomes a path.
"""

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from video_llama.errors import FULL_DISK, MediaNotFoundError
from video_llama.media.limits import Limits
from video_llama.server.refusal import Refusal, disk_full, storage_full, too_large
from video_llama.temporary_folder import TemporaryFolder

FILE_PREFIX = "file-"
_FOLDER = "video-llama-files-"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoragePolicy:
    """How much is kept, and how long.

    Attributes:
        lifetime: seconds after which a file is gone; a request may ask for less.
        file_bytes: of the largest file.
        total_bytes: of all files together.
        count: files of one owner.
    """

    lifetime: int = 24 * 3600
    file_bytes: int = 256 << 20
    total_bytes: int = 4 << 30
    count: int = 1000


@dataclass(frozen=True)
class StoredFile:
    """A file that was uploaded; times in seconds since 1970."""

    id: str
    owner: str
    name: str
    purpose: str
    size: int
    created: int
    expires: int


class FileStore:
    """The files of all owners. Of several threads at the same time, too.

    Args:
        policy: bounds.
        clock: tells the time; tests replace it.
    """

    def __init__(self, policy: StoragePolicy, clock: Callable[[], float] = time.time) -> None:
        self.policy = policy
        self._clock = clock
        self._folder = TemporaryFolder(_FOLDER)
        self._files: dict[str, StoredFile] = {}
        self._reserved = 0  # bytes of uploads on their way
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """What all files take."""
        with self._lock:
            return sum(file.size for file in self._files.values())

    def add(
        self, owner: str, content: BinaryIO, name: str, purpose: str, lifetime: int | None = None
    ) -> StoredFile:
        """Keep a file.

        Raises:
            Refusal: 413 it is too large, 429 there is no room, 400 it is empty, 503 the disk is
                full.
        """
        self.sweep()
        size = _size(content)
        self._reserve(owner, size)
        # Not to be guessed: an id is as good as the file for whoever shares the key.
        identifier = FILE_PREFIX + secrets.token_hex(16)
        try:
            with self._path(identifier).open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
        except OSError as error:
            self._path(identifier).unlink(missing_ok=True)
            if error.errno in FULL_DISK:
                raise disk_full() from None
            raise
        finally:
            with self._lock:
                self._reserved -= size
        now = int(self._clock())
        seconds = min(lifetime or self.policy.lifetime, self.policy.lifetime)
        stored = StoredFile(identifier, owner, name[:255], purpose, size, now, now + seconds)
        with self._lock:
            self._files[identifier] = stored
        return stored

    def get(self, owner: str, identifier: str) -> StoredFile:
        """A file of this owner.

        Raises:
            Refusal: 404, whether it never was, has expired, or is somebody else's.
        """
        self.sweep()
        with self._lock:
            stored = self._files.get(identifier)
        if stored is None or stored.owner != owner:
            raise Refusal(404, "there is no such file; it may have expired", code="file_not_found")
        return stored

    def read(self, owner: str, identifier: str, limits: Limits) -> bytes:
        """The bytes of a file.

        Raises:
            Refusal: as `get`.
            MediaLimitError: more bytes than such a medium may have.
        """
        stored = self.get(owner, identifier)
        limits.check_bytes(stored.size, "the uploaded file")
        try:
            return self._path(identifier).read_bytes()
        except FileNotFoundError:  # it expired in between
            raise MediaNotFoundError("the uploaded file is gone") from None

    def list(self, owner: str) -> list[StoredFile]:
        """All files of this owner, the newest first."""
        self.sweep()
        with self._lock:
            own = [file for file in self._files.values() if file.owner == owner]
        return own[::-1]

    def remove(self, owner: str, identifier: str) -> None:
        """Forget a file. Raises Refusal as `get`."""
        self._drop(self.get(owner, identifier))

    def sweep(self) -> None:
        """Forget what has expired."""
        now = self._clock()
        with self._lock:
            gone = [file for file in self._files.values() if file.expires <= now]
        for file in gone:
            self._drop(file)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._files.clear()
        self._folder.close()

    def _reserve(self, owner: str, size: int) -> None:
        if size > self.policy.file_bytes:
            raise too_large(self.policy.file_bytes, upload=True)
        if size == 0:
            raise Refusal(400, "the file is empty", code="empty_file", param="file")
        with self._lock:
            own = sum(file.owner == owner for file in self._files.values())
            taken = self._reserved + sum(file.size for file in self._files.values())
            if own >= self.policy.count or taken + size > self.policy.total_bytes:
                raise storage_full()
            self._reserved += size

    def _drop(self, stored: StoredFile) -> None:
        with self._lock:
            self._files.pop(stored.id, None)
        with contextlib.suppress(FileNotFoundError):
            self._path(stored.id).unlink()

    def _path(self, identifier: str) -> Path:
        return self._folder.path / identifier


def _size(content: BinaryIO) -> int:
    size = content.seek(0, 2)
    content.seek(0)
    return size

"""Pictures of what was seen, as files that the browser fetches once.

In the conversation itself they would be sent again, all of them, with every question.
"""

import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path
from urllib.parse import quote

from video_llama.errors import FULL_DISK
from video_llama.server.refusal import disk_full

_ROUTE = "/gradio_api/file="


class Album:
    """A folder of pictures, each named by its content: whoever has the name has seen it.

    May be used by several threads.

    Args:
        folder: among what was uploaded to the page: gradio serves files of that, and no others.
        lifetime: seconds that a picture is kept at least since it was shown last.
    """

    def __init__(self, folder: Path, lifetime: float) -> None:
        self._folder = folder
        self._lifetime = lifetime

    def add(self, picture: bytes, suffix: str) -> str:
        """The address of a picture, on this host.

        Args:
            picture: a whole file.
            suffix: of its name, as ".jpg".

        Raises:
            Refusal: the disk is full.
        """
        path = self._folder / f"{hashlib.sha256(picture).hexdigest()}{suffix}"
        address = _ROUTE + quote(path.as_posix())
        if self.touch(address):
            return address
        written = self._folder / f".{secrets.token_hex(8)}"  # another may write the same one
        try:
            self._folder.mkdir(exist_ok=True)
            written.write_bytes(picture)
            written.replace(path)
        except OSError as error:
            written.unlink(missing_ok=True)
            if error.errno in FULL_DISK:
                raise disk_full() from None
            raise
        return address

    def touch(self, address: str) -> bool:
        """Keep a picture for as long again; False where it is gone."""
        try:
            os.utime(self._folder / address.rpartition("/")[2])
        except FileNotFoundError:
            return False
        return True

    def sweep(self) -> None:
        """Remove what has not been shown for its lifetime."""
        oldest = time.time() - self._lifetime
        for path in self._folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # somebody else sweeps
                if path.stat().st_mtime < oldest:
                    path.unlink()

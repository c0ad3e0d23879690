"""Files that are there whole or not at all, also after a power cut.

Something is written under another name, brought to the disk, and renamed.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well.

    It lies in the same folder, as `beside` if that is given. When the block fails it is removed,
    and what was at `path` stays.
    """
    beside = beside or path.with_name(f".{path.name}.partial")
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    posix = os.name == "posix"
    if path.is_dir() and not posix:
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDONLY if posix else os.O_RDWR)  # a file may be for reading alone
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

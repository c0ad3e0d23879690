"""Folders that are there whole or not at all, also after a power cut, and files beside them."""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from video_llama.errors import FULL_DISK, TrainingError
from video_llama.whole_file import sync, whole_file

HALF_WRITTEN = ".writing-"  # how the other name begins


@contextlib.contextmanager
def writing(what: str, kept: str = "what was written before stays usable") -> Iterator[None]:
    """Turn a write that fails into a message.

    Raises:
        TrainingError: names `what` could not be written, and why.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        full = number in FULL_DISK or any(os.strerror(one) in str(error) for one in FULL_DISK)
        reason = getattr(error, "strerror", None) or str(error)
        hint = "make room and start again" if full else "start again once that is put right"
        raise TrainingError(f"{what} could not be written: {reason}; {kept}, {hint}") from error


def write_file(path: Path, data: bytes) -> None:
    """Replace a file."""
    with whole_file(path, other_name(path)) as other:
        other.write_bytes(data)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to be filled, which takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    other = other_name(path)
    other.mkdir()
    try:
        yield other
        for file in other.rglob("*"):
            sync(file)
        sync(other)
        _take_place(other, path)
    except BaseException:
        shutil.rmtree(other, ignore_errors=True)
        raise
    sync(path.parent)
    remove_half_written(path.parent, path.name)


def _take_place(new: Path, path: Path) -> None:
    """A folder cannot be replaced in one go: the old one is out of the way for a moment, under a
    name that is cleaned up, and comes back if the new one cannot take its place."""
    old = other_name(path) if path.exists() else None
    if old is not None:
        path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        if old is not None:
            old.rename(path)
        raise


def remove_half_written(folder: Path, name: str = "", *, older_than: float = 0.0) -> None:
    """Remove what a process that was killed left half written; of everything, or of one name.
    What changed less than `older_than` seconds ago may be being written by another one."""
    for left in folder.glob(f"{HALF_WRITTEN}{name}*"):
        if older_than and time.time() - left.stat().st_mtime < older_than:
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def other_name(path: Path) -> Path:
    """What something is called while it is being written."""
    return path.with_name(f"{HALF_WRITTEN}{path.name}-{uuid.uuid4().hex[:8]}")

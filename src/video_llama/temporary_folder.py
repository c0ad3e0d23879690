"""Temporary folders, which do not stay behind for ever when the process is killed."""

import contextlib
import glob
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there nobody removes what was left
    fcntl = None


class TemporaryFolder:
    """A folder for this user alone, removed by `close`, or else by who makes the next one.

    Its owner holds a lock on it, which goes with the process. (The number of a process would not
    do: in a container every server has the same one.)

    Args:
        prefix: of its name; folders of that name whose owners were killed are removed.
        parent: where it is made; the folder for temporary files unless given.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        _remove_abandoned(prefix, parent)
        self.path, claim = _new_folder(prefix, parent)
        self._claim: int | None = claim

    def close(self) -> None:
        """Remove the folder with what is in it."""
        claim, self._claim = self._claim, None
        shutil.rmtree(self.path, ignore_errors=True)
        if claim is not None:
            os.close(claim)


def _new_folder(prefix: str, parent: Path) -> tuple[Path, int | None]:
    """A folder, and what holds the lock on it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
        if fcntl is None:
            return folder, None
        with contextlib.suppress(FileNotFoundError):  # another server has just taken it for left
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # no locks on this disk: then nobody removes it
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)


def _remove_abandoned(prefix: str, parent: Path) -> None:
    """Folders of processes that were killed."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.getuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)

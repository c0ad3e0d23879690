"""One process at a time in a folder."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """While this lasts, no other process gets here with the same folder, which is there already.

    Gives False where that cannot be known: Windows and some network file systems have no locks.

    Raises:
        BlockingIOError: another process is there.
        OSError: the folder cannot be written to.
    """
    with (folder / LOCK).open("w") as file:
        known = fcntl is not None
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                known = False
        yield known

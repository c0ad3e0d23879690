"""Paths that begin at somebody's home, where no shell has spelled them out."""

import os


def spelled_out(path: str) -> str:
    """ "~/clips" as it is meant; "~nobody" of nobody here stays, and is then not found."""
    return os.path.expanduser(path)  # noqa: PTH111 (`Path.expanduser` refuses those of nobody)

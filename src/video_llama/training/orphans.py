"""Readers end with the process they read for, however that ended.

A reader's parent is the fork server, which lives as long as its readers do: left alone, both would
stay for ever behind a training process that was killed.
"""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def watch_parent() -> None:
    """In a reader: end at once when the process that started it is gone."""
    threading.Thread(target=wait_for_parent, name="parent watch", daemon=True).start()


def wait_for_parent() -> None:
    """Wait until the process that started this one is gone, and end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

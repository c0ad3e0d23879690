"""Ctrl-C and SIGTERM: the step is finished and a checkpoint written, then the run ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether someone asked the run to stop. A second Ctrl-C stops at once, as without this."""

    def __init__(self) -> None:
        self.name = ""

    @contextlib.contextmanager
    def watching(self) -> Iterator["Stop"]:
        """While this lasts, a signal is noted and not obeyed."""
        before: dict[Any, Any] = {}
        # Only the first thread may watch; in another one, whoever started it decides.
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._note) for number in WATCHED}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

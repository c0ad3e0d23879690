"""The asker's end of a request: its pieces as they come, and the right to call it off."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from threading import Condition

from video_llama.engine.request import Event, Failed, Finished, Piece

Listener = Callable[[Event], None]


class Handle:
    """What `Engine.submit` gives.

    Iterating waits for the pieces of the answer, and gives `Finished` last. Each event is given
    once: a handle is read by iteration, by `astream` or by a listener, not by several of them.

    Attributes:
        submitted: when, by `time.monotonic()`.
        first_token: when its first token was chosen; None before.
        reused_tokens: tokens of the prompt that did not have to run.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.submitted = time.monotonic()
        self.first_token: float | None = None
        self.reused_tokens = 0
        self._cancel = cancel
        self._changed = Condition()
        self._events: deque[Event] = deque()
        self._listener: Listener | None = None
        self._ended = False

    def __iter__(self) -> "Handle":
        return self

    def __next__(self) -> Piece | Finished:
        """The next event; waits for it. Raises the error of a request that failed."""
        with self._changed:
            while not self._events:
                if self._ended:
                    raise StopIteration
                self._changed.wait()
            event = self._events.popleft()
        if isinstance(event, Failed):
            raise event.error
        return event

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the answer has ended, and read it then at once; False: it has not yet."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout)

    def cancel(self) -> None:
        """Call it off: the row is free after the step that runs. Nothing happens at the end."""
        self._cancel()

    def add_listener(self, listener: Listener) -> None:
        """Have every event given to a function, first those that came already.

        It is called by the engine's thread, and must return at once.
        """
        with self._changed:
            while self._events:
                listener(self._events.popleft())
            self._listener = listener

    async def astream(self) -> AsyncIterator[Piece | Finished]:
        """The events, for asyncio. Leaving the loop early calls the request off."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def pass_on(event: Event) -> None:
            # A loop that is closed, whenever that was, has nobody left who waits; and what is
            # raised here would end the answers of others.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(events.put_nowait, event)

        self.add_listener(pass_on)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel()

    def deliver(self, event: Event) -> None:
        """For the engine: an event has come."""
        with self._changed:
            if isinstance(event, (Finished, Failed)):
                self._ended = True
            if self._listener is not None:
                self._listener(event)
            else:
                self._events.append(event)
            self._changed.notify_all()

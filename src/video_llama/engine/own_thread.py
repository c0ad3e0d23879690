"""Work on tensors beside the engine, in a thread that ends with it.

OpenMP keeps worker threads for every thread that has shared work with some, until that one ends.
Where all of a process together are more than the cores, workers no longer wait awake for the next
operation but have to be woken, and the engine's operations are many and small. On two cores 16
answers of nano got 4,100 tokens a second while the thread that loaded it lived on, and 7,300
without it (tried once, by hand).
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def in_own_thread(work: Callable[[], _T]) -> _T:
    """What `work` returns or raises.

    A caller that is interrupted does not wait for it: it goes on to its end, and nobody sees that.
    """
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 (raised by the caller)
            done.set_exception(error)

    # A daemon, so that a process that is to end does not wait for it either.
    thread = threading.Thread(target=run, name="apart", daemon=True)
    thread.start()
    try:
        return done.result()
    finally:
        if done.done():
            thread.join()

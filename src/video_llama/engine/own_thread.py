"""Work on tensors beside the engine, in a thread that ends with it.

OpenMP keeps worker threads for every thread that has shared work with some, until that one ends.
Where all of a process together are more than the cores, workers no longer wait awake for the next
operation but have to be woken, and the engine's operations are many and small. On two cores 16
answers of nano got 4,100 tokens a second while the thread that loaded it lived on, and 7,300
without it (tried once, by hand).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def in_own_thread(work: Callable[[], _T]) -> _T:
    """What `work` returns or raises. It runs to its end even when the caller is interrupted."""
    with ThreadPoolExecutor(1, "apart") as thread:
        return thread.submit(work).result()

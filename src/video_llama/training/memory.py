"""What to do where the memory of a device is not enough."""

import contextlib
from collections.abc import Iterator

import torch

from video_llama.errors import TrainingError


@contextlib.contextmanager
def memory_told(what: str, advice: str) -> Iterator[None]:
    """Turn a lack of memory into a message.

    Raises:
        TrainingError: the memory is not enough for `what`; it says what to do.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0][:200]
        raise TrainingError(
            f"the device has not enough memory for {what}: {advice} ({first})"
        ) from error

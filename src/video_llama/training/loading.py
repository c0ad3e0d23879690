"""Batches from worker processes that read media, and what becomes of their errors."""

import contextlib
import multiprocessing
import re
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from video_llama.data.collator import Batch, Collator
from video_llama.data.dataset import TrainingDataset
from video_llama.data.mixture import Draw
from video_llama.errors import TrainingError
from video_llama.training.orphans import watch_parent

# A worker is forked from a process that has imported this and done nothing else: forking a training
# process, with its threads, can lock up; importing in every worker takes seconds.
PRELOADED = [
    "video_llama.training.own_session",
    "video_llama.data.collator",
    "video_llama.data.dataset",
    "video_llama.media.reader",
]
_OWN_ERROR = re.compile(r"^(?:[\w.]+\.)?TrainingError: (.*)", re.MULTILINE)


def batch_loader(
    dataset: TrainingDataset,
    batches: Iterable[list[Draw]],
    workers: int,
    device: torch.device,
) -> Iterable[Batch]:
    """The batches of some draws, read ahead."""
    loader: Iterable[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=Collator(dataset.processor),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        **worker_options(workers),
    )
    return loader


def worker_options(workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader with so many workers."""
    if workers == 0:
        return {}
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(PRELOADED)
    # Without a timeout torch looks every few seconds whether the workers live; with one, once it is
    # over. No medium keeps a worker for long: each has its deadline.
    return {"multiprocessing_context": context, "worker_init_fn": _start_worker}


def _start_worker(_: int) -> None:
    """Ctrl-C is for the training process, which ends its workers itself, or is missed by them."""
    watch_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Tell what happened in a worker as if it had happened here.

    Raises:
        TrainingError: a worker died, or failed with such an error itself.
    """
    try:
        yield
    except TrainingError as error:
        own = _OWN_ERROR.findall(str(error))  # the message comes with the worker's traceback
        if own:
            raise TrainingError(own[-1]) from None
        raise
    except RuntimeError as error:
        text = str(error)
        if "DataLoader worker" in text and ("exited" in text or "killed" in text):
            raise _died(text) from error
        raise
    except (EOFError, ConnectionError) as error:  # it died while it sent a batch
        raise _died(str(error) or type(error).__name__) from error


def _died(text: str) -> TrainingError:
    return TrainingError(
        "a process that reads media died, perhaps for lack of memory; give fewer workers "
        f"or a smaller batch ({text.splitlines()[0][:200]})"
    )

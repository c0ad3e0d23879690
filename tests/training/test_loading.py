"""Readers: what becomes of their errors, and of them when the training process is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from video_llama.errors import TrainingError
from video_llama.training import loading
from video_llama.training.orphans import wait_for_parent


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_reader_ends_with_the_process_it_reads_for(tmp_path):
    """Its parent is the fork server, which would keep it."""
    told = tmp_path / "pid"

    def train():
        reader = multiprocessing.get_context("forkserver").Process(target=wait_for_parent)
        reader.start()
        told.write_text(f"{reader.pid} ")
        time.sleep(60)

    trainer = multiprocessing.get_context("fork").Process(target=forked, args=(train,))
    trainer.start()
    end = time.monotonic() + 30
    while not (told.exists() and told.read_text().endswith(" ")) and time.monotonic() < end:
        time.sleep(0.05)
    pid = int(told.read_text())
    assert is_there(pid)
    os.kill(trainer.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while is_there(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_there(pid)


def forked(function):
    """In a process that has no fork server of its own yet."""
    from multiprocessing import forkserver

    fresh = forkserver.ForkServer()
    for name in ("ensure_running", "connect_to_new_process", "set_forkserver_preload"):
        setattr(forkserver, name, getattr(fresh, name))
    function()


def test_every_reader_watches(monkeypatch):
    watched, ignored = [], []
    monkeypatch.setattr(loading, "watch_parent", lambda: watched.append(1))
    monkeypatch.setattr(loading.signal, "signal", lambda *which: ignored.append(which))
    loading.worker_options(2)["worker_init_fn"](0)
    assert watched == [1]
    assert ignored == [(signal.SIGINT, signal.SIG_IGN)]
    assert loading.worker_options(0) == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "a process that reads media died, perhaps for lack of memory; give fewer workers",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "a process that reads media died",
        ),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            "a process that reads media died",
        ),
        (EOFError(), "a process that reads media died"),
        (
            TrainingError(
                "Caught TrainingError in DataLoader worker process 0.\nOriginal Traceback (most "
                'recent call last):\n  File "x.py", line 3\n'
                "video_llama.errors.TrainingError: a shard is damaged\n"
            ),
            "a shard is damaged",
        ),
        (TrainingError("the checkpoint is gone"), "the checkpoint is gone"),
    ],
)
def test_what_happened_in_a_reader_is_told(error, said):
    with pytest.raises(TrainingError) as told, loading.worker_errors():
        raise error
    assert str(told.value).startswith(said)
    assert "\n" not in str(told.value)


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes differ"), loading.worker_errors():
        raise RuntimeError("shapes differ")


class Deadly(torch.utils.data.Dataset):
    """Ends whoever reads it, as the system does where memory is short."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_reader_that_is_killed_is_told_soon():
    loader = torch.utils.data.DataLoader(Deadly(), num_workers=1, **loading.worker_options(1))
    with pytest.raises(TrainingError, match="reads media died"), loading.worker_errors():
        next(iter(loader))


SESSIONS = """
import os
import torch
from video_llama.training import loading

class Sessions(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return os.getsid(0)

if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Sessions(), num_workers=1, **loading.worker_options(1))
    print(int(next(iter(loader))) != os.getsid(0))
"""


def test_a_signal_for_the_group_leaves_readers_alone(tmp_path):
    """What ends a whole group, such as torchrun, would end the step in its middle with them."""
    script = tmp_path / "sessions.py"
    script.write_text(SESSIONS)
    told = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "True"

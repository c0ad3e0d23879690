"""Media are decoded in processes of their own, which may crash, hang or grow.

Whatever a file does to its decoder costs the request it came with, and nothing else: the process is
replaced. It gets bytes, never a path or an address, and what it sends back is data (wire.py).
"""

import contextlib
import json
import logging
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

from video_llama.attachment import MediaOptions, ReadMedium, read
from video_llama.errors import (
    BusyError,
    CorruptMediaError,
    MediaError,
    MediaLimitError,
    OptionError,
    VideoLlamaError,
)
from video_llama.media.source import FrameFiles
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.server import forking
from video_llama.server.refusal import MEDIA_CODES
from video_llama.server.wire import MALFORMED, pack, unpack

_LOG = logging.getLogger("video_llama.server")
_GIGABYTE = 1 << 30
_STARTING = 180.0  # seconds until a new process must have come up
_LOOK = 0.1  # seconds between looks at whether the asker is still there
_GRACE = 2.0  # seconds beyond a medium's deadline: a decoder that looks at its clock says so itself
_HEAD = 1 << 20  # bytes of what a reply says beside frames and sound, and of a refusal

# What a reply may raise here.
_TOLD = {kind.__name__: kind for kind in (*MEDIA_CODES, OptionError)}
# The first byte of a reply.
_MEDIUM, _REFUSED, _MEMORY, _FAULT = b"m", b"r", b"o", b"f"


class Cancelled(Exception):  # noqa: N818 (nothing went wrong)
    """The asker has gone."""


class DecodingPool:
    """Processes that read media. Of several threads at the same time, too.

    Args:
        processor: as the model's.
        workers: media decoded at the same time.
        memory: bytes a process may grow by, where the system enforces it (Linux).

    Attributes:
        replaced: processes that had to be replaced.
    """

    def __init__(
        self, processor: VideoLlamaProcessor, *, workers: int = 2, memory: int = 4 * _GIGABYTE
    ) -> None:
        self._context = forking.prepare()
        self._processor = pickle.dumps(processor)
        self._frame_bytes = 4 * 3 * processor.image_size**2
        sound = processor.num_clips * processor.num_mel_bins * processor.target_length
        self._sound_bytes = 4 * sound
        self._memory = memory
        self.replaced = 0
        self._closed = False
        self._lock = threading.Lock()
        # None stands for a process that is still to be started.
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._all: set[_Worker] = set()
        for _ in range(workers):
            self._idle.put(self._start())

    @property
    def process_ids(self) -> list[int]:
        """Of the processes there are now."""
        with self._lock:
            return [worker.process.pid or 0 for worker in self._all]

    def read(
        self,
        source: bytes | FrameFiles,
        options: MediaOptions,
        gone: threading.Event | None = None,
    ) -> ReadMedium:
        """`attachment.read`, elsewhere.

        Args:
            source: what the gate let in.
            options: how it is read; their limits hold.
            gone: set when nobody waits for it any more.

        Raises:
            MediaError: also when the decoder crashed, hung, or wanted too much memory.
            Cancelled: `gone` was set.
            BusyError: the pool is closed, or a process cannot be started now.
        """
        worker = self._take(gone)
        usable = False
        try:
            seconds = options.limits.deadline + _GRACE
            most = options.limits.frames * self._frame_bytes + self._sound_bytes + _HEAD
            reply = worker.ask((source, options), seconds, most, gone)
            usable = reply[:1] in (_MEDIUM, _REFUSED)
            return _understand(reply)
        except MALFORMED:
            usable = False
            raise CorruptMediaError("the medium could not be decoded") from None
        finally:
            self._give_back(worker, usable)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
            workers, self._all = self._all, set()
        for worker in workers:
            worker.end()

    def _take(self, gone: threading.Event | None) -> "_Worker":
        while True:
            if gone is not None and gone.is_set():
                raise Cancelled
            if self._closed:
                raise BusyError("the server is shutting down")
            try:
                worker = self._idle.get(timeout=_LOOK)
            except queue.Empty:
                continue
            if gone is not None and gone.is_set():  # while it waited
                self._idle.put(worker)
                raise Cancelled
            if worker is not None and worker.process.is_alive():
                return worker
            if worker is not None:
                self._retire(worker)  # it died with nothing to do
            return self._replace()

    def _replace(self) -> "_Worker":
        """A new process in the place that was taken; without one the place is free again."""
        started = None
        try:
            started = self._start()
        except OSError as error:  # no more descriptors, processes or memory just now
            _LOG.error("no decoder can be started: %s", error.strerror)
            raise BusyError("no decoder can be started now; ask again in a moment") from None
        finally:
            if started is None:
                self._idle.put(None)
        return started

    def _give_back(self, worker: "_Worker", usable: bool) -> None:
        if usable:
            self._idle.put(worker)
            return
        self._retire(worker)
        with contextlib.suppress(BusyError):  # logged, and tried again by who needs it
            self._idle.put(self._replace())

    def _retire(self, worker: "_Worker") -> None:
        with self._lock:
            self._all.discard(worker)
            self.replaced += not self._closed
        worker.end()

    def _start(self) -> "_Worker":
        worker = _Worker(self._context, self._processor, self._memory)
        with self._lock:
            closed = self._closed
            if not closed:
                self._all.add(worker)
        if closed:
            worker.end()
        return worker


class _Worker:
    """One process and the way to it."""

    def __init__(
        self,
        context: ForkServerContext,
        processor: bytes,
        memory: int,
    ) -> None:
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=_work, args=(other, processor, memory), daemon=True, name="decoder"
        )
        self.process.start()
        other.close()
        self._up = False

    def ask(self, job: object, seconds: float, most: int, gone: threading.Event | None) -> bytes:
        """The reply to a job, of so many bytes at most.

        Raises:
            MediaLimitError: none came in time.
            CorruptMediaError: the process ended.
            Cancelled: nobody waits any more.
            BusyError: the process did not come up; that is no fault of the medium.
        """
        if not self._up:
            try:
                with self._watched(_STARTING, gone):
                    self.connection.recv_bytes(_HEAD)
            except MediaError:
                _LOG.error("a decoder did not come up; it ended with %s", self.process.exitcode)
                raise BusyError("a decoder did not come up; ask again in a moment") from None
            self._up = True
        with self._watched(seconds, gone):
            self.connection.send_bytes(pickle.dumps(job, protocol=pickle.HIGHEST_PROTOCOL))
            return self.connection.recv_bytes(most)

    @contextlib.contextmanager
    def _watched(self, seconds: float, gone: threading.Event | None) -> Iterator[None]:
        """Kill the process when its time is over or its asker has gone.

        A process may stop anywhere, in the middle of a message too; sending and receiving know no
        deadline of their own.
        """
        done, why = threading.Event(), list[Exception]()
        end = time.monotonic() + seconds

        def watch() -> None:
            while not done.wait(_LOOK):
                if gone is not None and gone.is_set():
                    why.append(Cancelled())
                elif time.monotonic() > end:
                    words = f"the medium was not decoded within {seconds:.0f} seconds"
                    why.append(MediaLimitError(words))
                else:
                    continue
                self._cut()
                return

        watching = threading.Thread(target=watch, name="decoder watch", daemon=True)
        watching.start()
        broke = False
        try:
            yield
        except (EOFError, OSError):
            broke = True
        finally:
            done.set()
            watching.join()
        if why:
            raise why[0]
        if broke:
            raise CorruptMediaError("the medium broke its decoder and is not used")

    def _cut(self) -> None:
        """Kill it, and wake whoever waits for it: a process it has started may live on."""
        self.process.kill()
        with (
            contextlib.suppress(OSError),  # closed already
            socket.socket(fileno=os.dup(self.connection.fileno())) as way,
        ):
            way.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Kill it: one that hangs hears nothing else."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _understand(reply: bytes) -> ReadMedium:
    kind, rest = reply[:1], reply[1:]
    if kind == _MEDIUM:
        return unpack(rest)
    if kind == _REFUSED:
        name, words = json.loads(rest)
        raise _TOLD[name](words)
    if kind == _MEMORY:
        raise MediaLimitError("the medium needs more memory than one may have")
    _LOG.error("a decoder failed: %s", rest[:4000].decode(errors="replace"))
    raise CorruptMediaError("the medium could not be decoded")


def _work(connection: Connection, processor: bytes, memory: int) -> None:
    """What a decoding process does, until its server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the server's to hear
    torch.set_num_threads(1)
    _limit_memory(memory)
    own = pickle.loads(processor)  # from the server itself
    with contextlib.suppress(OSError):
        connection.send_bytes(b"up")
    while True:
        try:
            source, options = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):  # the server is gone
            return
        reply = _reply(source, options, own)
        with contextlib.suppress(OSError):
            connection.send_bytes(reply)
        if reply[:1] in (_MEMORY, _FAULT):
            return


def _reply(
    source: bytes | FrameFiles, options: MediaOptions, processor: VideoLlamaProcessor
) -> bytes:
    try:
        return _MEDIUM + pack(read(source, processor, options))
    except VideoLlamaError as error:
        return _REFUSED + json.dumps([type(error).__name__, str(error)]).encode()
    except MemoryError:
        return _MEMORY
    except RuntimeError as error:
        # Torch has no error of its own for memory that is not there.
        return _MEMORY if "allocate memory" in str(error) else _FAULT + repr(error).encode()
    except Exception as error:  # noqa: BLE001 (any other is reported, and ends the process)
        return _FAULT + repr(error).encode()


def _limit_memory(memory: int) -> None:
    """So many bytes more than the process has now; nothing where the system cannot tell."""
    status = Path("/proc/self/statm")
    if not sys.platform.startswith("linux") or not status.is_file():
        return
    import resource

    now = int(status.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

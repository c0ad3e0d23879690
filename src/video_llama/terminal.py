"""What the commands do with a terminal or a pipe: set up the process, print, read, report errors.

Answers go to stdout and nothing else does, so a pipe gets clean text or JSON; warnings and errors
go to stderr. Nothing heavy is imported here before it is used.
"""

import contextlib
import gc
import io
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from video_llama.errors import VideoLlamaError

DEBUG_VARIABLE = "VIDEO_LLAMA_DEBUG"
# Codes that move the cursor, change colours or worse; line breaks and tabs are text.
CONTROL_CODES = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def debugging() -> bool:
    """Whether tracebacks and the warnings of libraries are wanted."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def prepare_process() -> None:
    """Settings that must be in place before torch and transformers are imported."""
    # Waiting threads sleep: spinning ones slow each other down when the cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("stdin", "stdout", "stderr"):  # closed by who started this (`<&-`)
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may be Chinese, a terminal not
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # one bad line is refused, and not all
    sys.excepthook = _report_fault
    if not debugging():
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        warnings.simplefilter("ignore")


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """For what imports a lot: without the search for garbage, a fifth faster.

    What was made inside is not searched afterwards either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def prepare_libraries() -> None:
    """Settings of torch and transformers; imports both."""
    import torch
    from transformers.utils import logging

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    if not debugging():
        logging.disable_progress_bar()


def usable_cores() -> int:
    """Cores this process may use: those it is bound to, at most its container's share of time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = _container_share(Path("/sys/fs/cgroup/cpu.max"))
    return max(1, min(cores or 1, share or sys.maxsize))


def _container_share(limit: Path) -> int | None:
    """Cores of a control group's limit, "QUOTA PERIOD" in microseconds; None without a limit."""
    if not limit.is_file():
        return None
    quota, period = limit.read_text(encoding="ascii").split()
    return None if quota == "max" else math.ceil(int(quota) / int(period))


@contextlib.contextmanager
def reporting(as_json: bool = False) -> Iterator[None]:
    """Turn an error a user can put right into a line on stderr and exit status 1.

    With `as_json`, stdout gets `{"error": {"type", "message"}}` besides, so that whoever parses it
    always finds an object.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (VideoLlamaError, OSError) as error:
        if debugging():
            traceback.print_exc()
        message = str(error)
        if isinstance(error, OSError):
            message = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        write(f"error: {message or type(error).__name__}\n", sys.stderr)
        if as_json:
            with contextlib.suppress(OSError):  # stdout may be what failed
                print_json({"error": {"type": type(error).__name__, "message": message}})
        raise SystemExit(1) from None
    except Exception as error:
        if as_json:
            print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        raise


def _report_fault(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """For what should not happen: what it is, and how to get the rest."""
    if debugging():
        sys.__excepthook__(kind, error, trace)
        return
    if kind.__name__ == "OutOfMemoryError":
        print("error: not enough memory on the device; try --device cpu", file=sys.stderr)
        return
    if issubclass(kind, MemoryError):
        print("error: not enough memory; close other programs", file=sys.stderr)
        return
    print(
        f"error: a fault in video-llama: {kind.__name__}: {error}\n"
        f"run it again with {DEBUG_VARIABLE}=1 for the details, and report them",
        file=sys.stderr,
    )


def is_there(text: str) -> bool:
    """Whether a text is the name of a file or a folder; one that can be no name is none."""
    return os.path.exists(text)  # noqa: PTH110 (which has no errors for those)


def print_json(value: Any) -> None:
    """One object on stdout, readable by people too; in ASCII where stdout cannot say all of it."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def print_warnings(messages: Iterable[str], err: TextIO | None = None) -> None:
    """Each on a line of its own, on stderr unless told otherwise."""
    for message in messages:
        write(f"warning: {message}\n", err or sys.stderr)


def write(text: str, out: TextIO) -> None:
    """Write text at once; what a model says and files are called cannot control a terminal."""
    out.write(text.translate(CONTROL_CODES) if out.isatty() else text)
    out.flush()

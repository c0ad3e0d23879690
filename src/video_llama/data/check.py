"""Looks through a data set before anyone trains on it: which rows cannot be used, and why."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from video_llama.data.formats import DatasetSpec, open_dataset
from video_llama.data.sample import Sample, Source, cleaned_caption
from video_llama.errors import DataError, MediaError
from video_llama.processing.conversation import PartKind

MAX_FAULTS = 1000  # faults that are kept; all are counted

FaultKind = Literal["malformed", "missing", "damaged", "repeated"]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row.

    Attributes:
        kind: "malformed": the row itself, or nothing can be learnt from it; "missing": no file of
            a medium, or an empty one; "damaged": a medium that does not decode; "repeated": the
            same as an earlier row.
        key: of the row.
        reason: in one line.
    """

    kind: FaultKind
    key: str
    reason: str


@dataclass
class CheckReport:
    """What was found.

    Attributes:
        name: of the data set.
        rows: how many there are.
        checked: how many were looked at.
        bad: how many of these cannot be used.
        kinds: how many faults of each kind there are.
        media: how many pictures, videos and sounds the good rows have.
        answers: how many answers or captions they have.
        faults: the first ones.
    """

    name: str
    rows: int
    checked: int = 0
    bad: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there are rows, and every one that was looked at can be used."""
        return self.rows > 0 and self.bad == 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        # `asdict` cannot copy a Counter.
        plain = replace(self, kinds=Counter(), media=Counter())
        counts = {"kinds": dict(self.kinds), "media": dict(self.media)}
        return {"passed": self.passed, **asdict(plain), **counts}


def check(
    spec: DatasetSpec,
    *,
    limit: int | None = None,
    decode: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> CheckReport:
    """Look through the rows of a data set.

    Args:
        spec: the data set.
        limit: look at the first so many rows only.
        decode: decode every medium, not only see that its file is there.
        progress: called with the number of rows done, and of all that are looked at.

    Raises:
        DataError: the file cannot be read, or is not of the format.
    """
    rows = open_dataset(spec)
    report = CheckReport(rows.name, len(rows))
    total = len(rows) if limit is None else min(limit, len(rows))
    seen: dict[int, int] = {}  # hash of what a row is: its number
    for number in range(total):
        key = f"{rows.name}#{number}"
        try:
            sample = rows[number]
        except DataError as error:
            faults = [Fault("malformed", key, _line(key, error))]
        else:
            faults = [
                *useless(sample),
                *_repeated(sample, number, seen),
                *_media_faults(sample, decode),
            ]
            if not faults:
                report.media.update(kind for kind, _ in sample.media())
                report.answers += _count_answers(sample)
        report.checked += 1
        report.bad += bool(faults)
        report.kinds.update(fault.kind for fault in faults)
        report.faults += faults[: MAX_FAULTS - len(report.faults)]
        if progress:
            progress(number + 1, total)
    return report


def _count_answers(sample: Sample) -> int:
    own = sum(message["role"] == "assistant" for message in sample.messages)
    return own + len(sample.others)


def useless(sample: Sample) -> list[Fault]:
    """A row that is well formed, and that training refuses all the same."""
    if not sample.media():
        reason = "there is no medium in it, so training has nothing to learn from it"
        return [Fault("malformed", sample.key, reason)]
    try:
        for caption in sample.answers if sample.bare_caption else ():
            cleaned_caption(caption)
    except DataError as error:
        return [Fault("malformed", sample.key, _line(sample.key, error))]
    return []


def _repeated(sample: Sample, number: int, seen: dict[int, int]) -> list[Fault]:
    """A row like one before; `seen` learns of it."""
    what = sample.identity or repr(sample.messages)
    digest = hashlib.blake2b(what.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    first = seen.setdefault(int.from_bytes(digest, "big"), number)
    if first == number:
        return []
    again = f"{sample.identity!r} stands" if sample.identity else "the same stands"
    return [Fault("repeated", sample.key, f"{again} in row {first} already")]


def _media_faults(sample: Sample, decode: bool) -> list[Fault]:
    faults = []
    for kind, source in sample.media():
        missing = _missing(source)
        if missing:
            faults.append(Fault("missing", sample.key, missing))
        elif decode:
            faults += _damaged(sample, kind, source)
    return faults


def _missing(source: Source) -> str:
    """Why a medium is not there, or ""."""
    if not isinstance(source, Path):
        return "" if source else "a medium is empty"
    try:
        size = source.stat().st_size if source.is_file() else -1
    except OSError as error:
        return f"{source} cannot be read: {error.strerror}"
    if size < 0:
        return f"there is no file {source}"
    return "" if size else f"{source} is empty"


def _damaged(sample: Sample, kind: PartKind, source: Source) -> list[Fault]:
    # Reading media loads PyAV, which a look at names does not need.
    from video_llama.media.reader import load_media

    try:
        clip = load_media(
            source,  # pyrefly: ignore[bad-argument-type]
            with_frames=kind != "audio",
            with_sound=kind == "audio",
        )
    except MediaError as error:
        return [Fault("damaged", sample.key, _line(sample.key, error))]
    if (clip.sound if kind == "audio" else clip.frames) is not None:
        return []
    what = "sound" if kind == "audio" else "picture"
    return [Fault("damaged", sample.key, f"{clip.info.name or 'the medium'} has no {what}")]


def _line(key: str, error: Exception) -> str:
    return " ".join(str(error).split()).removeprefix(f"{key}: ")

"""What is kept of a run: its settings, every answer, and the measures.

OUT/TASK.answers.jsonl   grows while the model answers: the settings, what answers (software and
                         device, once more where it changes), and one line an answer
OUT/TASK.judge.jsonl     what a judge said, so that it is never asked twice
OUT/TASK.json            the whole result, written last
"""

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from video_llama.checkpoints.load import whole_model
from video_llama.checkpoints.part import PART_FILE, TRAINED_FILE, read_part
from video_llama.checkpoints.writer import model_files
from video_llama.errors import OptionError
from video_llama.evaluation.journal import Journal

_CONFIGURATION = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class Record:
    """One line of the answers.

    Attributes:
        id: of the question.
        media: file, relative to the folder of the data, with the seconds of a stretch.
        question, reference: as asked, and what is right.
        kind: of the question.
        prediction: what the model said; None if it could not be asked.
        seconds: of the model's time: that of its batch, shared out. Reading media comes on top.
        sound: whether the sound was used, or why not; as in the answers of a chat.
        absent: the file is not there.
        failed: it is there and cannot be used, or the prompt does not fit: the reason.
    """

    id: str
    media: str
    question: str
    reference: tuple[str, ...]
    kind: str = ""
    prediction: str | None = None
    seconds: float = 0.0
    sound: str = ""
    absent: bool = False
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; what says nothing is left out."""
        fields = asdict(self) | {"reference": list(self.reference)}
        kept = ("id", "media", "question", "reference", "prediction", "seconds")
        return {name: value for name, value in fields.items() if name in kept or value}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Record":
        """The record of a line."""
        values: dict[str, Any] = {**fields, "reference": tuple(fields["reference"])}
        return cls(**values)


def open_answers(path: Path, settings: dict[str, Any]) -> Journal:
    """The answers of a run so far, or a new file.

    Raises:
        OptionError: the file was begun with other settings.
    """
    journal = Journal(path)
    if not journal.records:
        journal.append([{"settings": settings}])
        return journal
    found = journal.records[0].get("settings")
    difference = _difference(found, settings)
    if difference:
        with journal:
            raise OptionError(
                f"{path} was begun with {difference}; give another --out, or remove it"
            )
    return journal


def kept_records(journal: Journal) -> dict[str, Record]:
    """The latest record of each question."""
    lines = (line for line in journal.records if "id" in line)
    return {line["id"]: Record.from_json(line) for line in lines}


def note_maker(journal: Journal, maker: dict[str, Any]) -> None:
    """Say who gives the answers that follow, if it is not who gave those before."""
    if makers_of(journal)[-1:] != [maker]:
        journal.append([{"made_by": maker}])


def makers_of(journal: Journal) -> list[dict[str, Any]]:
    """Who gave the answers, in order; empty for answers of versions that did not say so."""
    return [line["made_by"] for line in journal.records if "made_by" in line]


def describe_model(directory: Path, *, offline: bool | None = None) -> dict[str, str]:
    """Checksums of a model: of its weights, and of the files that say how they are used.

    Raises:
        CheckpointError: it has no weights.
    """
    weights = _weights(directory, offline)
    others = [directory / name for name in _CONFIGURATION if (directory / name).is_file()]
    return {"sha256": _checksum(weights), "configuration_sha256": _checksum(others)}


def _weights(directory: Path, offline: bool | None) -> list[Path]:
    part = read_part(directory)
    if part is None:
        return sorted(set(model_files(directory).values()))
    base = whole_model(directory, part, offline=offline)
    return [*_weights(base, offline), directory / PART_FILE, directory / TRAINED_FILE]


def describe_files(paths: Iterable[Path]) -> dict[str, str]:
    """Checksums of files by their names."""
    return {path.name: _checksum([path]) for path in paths}


@lru_cache(maxsize=1)
def describe_software() -> dict[str, str | None]:
    """Versions, and the commit if this is a checkout."""
    return {
        "video_llama": version("video-llama"),
        "commit": _commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _checksum(paths: Iterable[Path]) -> str:
    """SHA-256 of a file; of several files, of their names and checksums."""
    sums = []
    for path in paths:
        with path.open("rb") as file:
            sums.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    if len(sums) == 1:
        return sums[0][1]
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in sums).encode()).hexdigest()


def _commit() -> str | None:
    """The commit of the checkout this code runs from, "-dirty" with changes; None outside one."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """The first setting that differs, in words; "" if none does."""
    if not isinstance(found, dict):
        return "no settings at all"
    for name in {**wanted, **found}:
        before, now = found.get(name), wanted.get(name)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            return f"{name}: {_difference(before, now)}"
        return f"{name} {_short(before)}, and this run has {_short(now)}"
    return ""


def _short(value: Any) -> str:
    """A value in a message; of a checksum the beginning is enough to tell it from another."""
    text = "none" if value is None else str(value) or "''"
    return text if len(text) <= 40 else f"{text[:12]}..."

"""What a benchmark is: questions about media, and a measure for the answers."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Medium:
    """What a question is about: a file, or a stretch of it.

    Attributes:
        path: a video, a picture or a sound; or, with `fps`, a folder of pictures that are the
            frames of a video.
        start, end: seconds; None for the beginning and the end.
        fps: frames a second in a folder of pictures.
    """

    path: Path
    start: float | None = None
    end: float | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: unique in the benchmark, and the same in every run.
        medium: what is asked about.
        text: as the model is asked.
        references: answers that are right.
        kind: the row of the table it belongs to; "" where the benchmark has no kinds.
        options: of multiple choice, in the order of their letters; the reference is one of them.
        before: questions and answers of the conversation so far.
        facts: whatever else the benchmark's own measure needs.
    """

    id: str
    medium: Medium
    text: str
    references: tuple[str, ...]
    kind: str = ""
    options: tuple[str, ...] = ()
    before: tuple[tuple[str, str], ...] = ()
    facts: Any = None


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a benchmark as its files have them.

    Attributes:
        questions: in the order of the files.
        files: annotation files they were read from; results name them with their checksums.
        notes: what a reader of the results should know of them.
    """

    questions: tuple[Question, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A question and what the model said."""

    question: Question
    prediction: str


@dataclass(frozen=True)
class Measured:
    """How good the answers are.

    Attributes:
        metrics: numbers by name; under "by_kind", the same for each kind of question.
        chance: what knows nothing of the media reaches, by name of the metric.
        right: one value for each answer: right or wrong, a score, or None.
        chance_rule: how the chance level is found, in words.
    """

    metrics: dict[str, Any]
    chance: dict[str, float]
    right: tuple[bool | float | None, ...]
    chance_rule: str = ""


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: as the command takes it.
        about: what it asks, in a line.
        expects: the files that its folder holds, in a line or two.
        load: a folder -> the questions; raises DataError for files that do not fit.
        measure: the answers -> how good they are.
        max_new_tokens: of an answer, unless told otherwise.
        open_answers: the answers are free words that a judge may be asked about.
        make: writes the data into a folder, at least what `drawn` takes for so many questions; None
            where they are somebody else's and must be given.
    """

    name: str
    about: str
    expects: str
    load: Callable[[Path], QuestionSet]
    measure: Callable[[Sequence[Answered]], Measured]
    max_new_tokens: int
    open_answers: bool = False
    make: Callable[[Path, int | None], object] | None = field(default=None)


def drawn(ids: Iterable[str], limit: int) -> set[str]:
    """A sample of questions, spread over all of them: the same each time, and a larger one holds
    every smaller one."""
    return set(sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:limit])

"""The questions of a benchmark, answered in batches.

questions -- grouped by medium --> batches --+-- media of the next batch are read by threads
                                             +-- each medium is encoded once, and kept while it
                                             |   is asked about
                                             +-- prompts of a batch in one call of the model
                                             +-- answers on the disk before the next batch
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from video_llama.attachment import Attachment, MediaOptions, ReadMedium, encode
from video_llama.chat import VideoLlama
from video_llama.errors import (
    CorruptMediaError,
    MediaError,
    OptionError,
    PromptTooLongError,
    UnsupportedMediaError,
)
from video_llama.evaluation.answers import PreparedQuestion, answer_together, prepare
from video_llama.evaluation.journal import Journal
from video_llama.evaluation.media import read_medium
from video_llama.evaluation.results import Record, kept_records, note_maker
from video_llama.evaluation.task import Medium, Question

READERS = 2  # threads that read media

Progress = Callable[[int, int], object]  # questions done, and all


@dataclass
class Asking:
    """The answering of the questions of a benchmark.

    Attributes:
        data: folder that media are named relative to.
        assistant: the model.
        reading: how media are read.
        instruction: a text after each question; "" for none.
        max_new_tokens: of an answer.
        batch_size: questions in one call.
        journal: of the answers.
        maker: what answers, as results name it: software and device.
        encoded: the media of the latest batch, or why there is nothing of them.
    """

    data: Path
    assistant: VideoLlama
    reading: MediaOptions
    instruction: str
    max_new_tokens: int
    batch_size: int
    journal: Journal
    maker: dict[str, Any]
    encoded: dict[Medium, Attachment | MediaError] = field(default_factory=dict)

    def answer(self, questions: Sequence[Question], progress: Progress | None = None) -> None:
        """Every question that has no answer yet; what failed before is tried again, and what was
        asked in other words then (by another version) is asked anew."""
        kept = kept_records(self.journal)
        answered = {
            (name, record.question, record.reference)
            for name, record in kept.items()
            if record.prediction is not None
        }
        missing = [one for one in questions if (one.id, one.text, one.references) not in answered]
        if missing:
            note_maker(self.journal, self.maker)
        done = len(questions) - len(missing)
        with ThreadPoolExecutor(READERS, "media") as pool:
            try:
                for batch, clips in self._batches(_by_medium(missing), pool):
                    if progress:
                        progress(done, len(questions))
                    self.journal.append(record.to_json() for record in self._ask(batch, clips))
                    done += len(batch)
            finally:
                pool.shutdown(cancel_futures=True)
        if progress:
            progress(done, len(questions))

    def _batches(
        self, questions: Sequence[Question], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Sequence[Question], dict[Medium, Future[ReadMedium]]]]:
        """Batches with the media they need, while those of the next ones are being read."""
        size = self.batch_size
        batches = [questions[at : at + size] for at in range(0, len(questions), size)]
        clips: dict[Medium, Future[ReadMedium]] = {}
        begun = 0
        for number, batch in enumerate(batches):
            while begun < min(len(batches), number + 2):
                for medium in {question.medium: None for question in batches[begun]}:
                    if medium not in clips and medium not in self.encoded:
                        clips[medium] = pool.submit(
                            read_medium, medium, self.assistant.processor, self.reading
                        )
                begun += 1
            needed = {question.medium for question in batch}
            yield batch, {medium: clips.pop(medium) for medium in needed if medium in clips}

    def _ask(
        self, batch: Sequence[Question], clips: dict[Medium, Future[ReadMedium]]
    ) -> list[Record]:
        needed = {question.medium: None for question in batch}
        self.encoded = {
            medium: self.encoded.get(medium) or self._encode(medium, clips[medium])
            for medium in needed
        }
        started = time.perf_counter()
        prepared: list[PreparedQuestion] = []
        records: dict[str, Record] = {}
        for question in batch:
            record, ready = self._prepare(question)
            records[question.id] = record
            prepared += [ready] if ready else []
        texts = answer_together(prepared, self.assistant, self.max_new_tokens)
        seconds = (time.perf_counter() - started) / max(1, len(prepared))
        for ready, text in zip(prepared, texts, strict=True):
            name = ready.question.id
            records[name] = replace(records[name], prediction=text, seconds=round(seconds, 4))
        return list(records.values())

    def _encode(self, medium: Medium, read: Future[ReadMedium]) -> Attachment | MediaError:
        """The features of a medium, or why it has none."""
        try:
            return encode(read.result(), self.assistant.model)
        except MediaError as error:
            return error
        except OSError as error:
            return CorruptMediaError(f"{medium.path.name} cannot be read: {error.strerror}")
        except OptionError as error:
            if medium.start is None and medium.end is None:
                raise
            return UnsupportedMediaError(str(error))  # the stretch does not fit the medium

    def _prepare(self, question: Question) -> tuple[Record, PreparedQuestion | None]:
        """The beginning of a record, and the prompt if there is nothing in its way."""
        record = Record(
            id=question.id,
            media=medium_name(question.medium, self.data),
            question=question.text,
            reference=question.references,
            kind=question.kind,
        )
        encoded = self.encoded[question.medium]
        if isinstance(encoded, MediaError):
            absent = not os.path.exists(question.medium.path)  # noqa: PTH110
            return replace(record, absent=absent, failed="" if absent else str(encoded)), None
        try:
            ready = prepare(
                question,
                encoded,
                self.assistant,
                instruction=self.instruction,
                max_new_tokens=self.max_new_tokens,
            )
        except PromptTooLongError as error:
            return replace(record, failed=str(error)), None
        return replace(record, sound=encoded.use.sound), ready


def _by_medium(questions: Sequence[Question]) -> list[Question]:
    """Questions about one medium next to each other, media in the order of their first question."""
    groups: dict[Medium, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.medium, []).append(question)
    return [question for group in groups.values() for question in group]


def medium_name(medium: Medium, data: Path) -> str:
    """A medium as results name it: relative to the folder of the data, with its stretch."""
    name = relative_name(medium.path, data)
    if medium.start is None and medium.end is None:
        return name
    start = f"{medium.start or 0:g}"
    return f"{name} {start}-{'' if medium.end is None else f'{medium.end:g}'} s"


def relative_name(path: Path, folder: Path) -> str:
    """A path relative to a folder, or its own name outside of it."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path.name)

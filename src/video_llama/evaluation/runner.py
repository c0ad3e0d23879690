"""A whole benchmark: every question answered, in batches, and measured.

questions -- grouped by medium --> batches --+-- media of the next batch are read by threads
                                             +-- each medium is encoded once, and kept while it
                                             |   is asked about
                                             +-- prompts of a batch in one call of the model
                                             +-- answers on the disk before the next batch
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from video_llama.attachment import Attachment, MediaOptions, ReadMedium, encode
from video_llama.chat import VideoLlama
from video_llama.errors import (
    CorruptMediaError,
    DataError,
    JudgeError,
    MediaError,
    OptionError,
    PromptTooLongError,
)
from video_llama.evaluation.answers import PreparedQuestion, answer_together, prepare
from video_llama.evaluation.journal import Journal, write_json
from video_llama.evaluation.judge import Judge, JudgeOptions, judge_metrics
from video_llama.evaluation.media import read_medium
from video_llama.evaluation.results import (
    Record,
    describe_files,
    describe_software,
    kept_records,
    open_answers,
)
from video_llama.evaluation.task import Answered, Medium, Question, QuestionSet, Task

READERS = 2  # threads that read media

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class RunOptions:
    """How a benchmark is run.

    Attributes:
        num_frames: of a video; None for what the model was made with.
        with_sound: False leaves all sound out.
        max_new_tokens: of an answer; None for what the benchmark says.
        instruction: a text after each question, such as "Answer in one word."
        batch_size: questions in one call; it does not change the answers.
        limit: a sample of so many questions, the same each time; None for all.

    Raises:
        OptionError: a number below 1.
    """

    num_frames: int | None = None
    with_sound: bool = True
    max_new_tokens: int | None = None
    instruction: str = ""
    batch_size: int = 8
    limit: int | None = None

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if type(value) is int and value < 1:
                raise OptionError(f"{option.name} must be at least 1, not {value}")


@dataclass(frozen=True)
class ModelFacts:
    """What results say of the model: its name, checksums, and how it was loaded."""

    name: str
    checksums: dict[str, str]
    quantization: str | None = None


@dataclass
class Result:
    """A finished run.

    Attributes:
        task: its name.
        report: everything, as it is written to a file.
        path: of that file.
        judge_fault: why there is no judge's word though one was asked for; "" otherwise.
    """

    task: str
    report: dict[str, Any]
    path: Path
    judge_fault: str = ""


@dataclass(frozen=True)
class Loaded:
    """The folder of a benchmark, and its questions."""

    data: Path
    found: QuestionSet


def load_questions(task: Task, data: Path | None, out: Path, limit: int | None) -> Loaded:
    """The questions of a benchmark, checked before a model is loaded.

    With several benchmarks in one folder, that of a benchmark's name is its own.

    Raises:
        DataError: files that do not fit, or none of the media is there.
        OptionError: no folder is given, and the benchmark cannot make its own.
    """
    if data is None:
        if task.make is None:
            raise OptionError(f"{task.name} needs --data, a folder with {task.expects}")
        data = out / task.name
        task.make(data, limit)
    elif (data / task.name).is_dir():
        data = data / task.name
    found = task.load(data)
    _require_unique(task, found)
    chosen = sample(found.questions, limit)
    if not chosen:
        raise DataError(f"{task.name}: there are no questions in {found.files[0].name}")
    if not any(question.medium.path.exists() for question in chosen):
        raise DataError(
            f"{task.name}: none of the media is below {data}, the first being "
            f"{_relative(chosen[0].medium.path, data)}; put them there, or a link to them"
        )
    return Loaded(data, replace(found, questions=chosen))


def sample(questions: Sequence[Question], limit: int | None) -> tuple[Question, ...]:
    """So many questions, spread over all of them; a larger sample holds every smaller one."""
    if limit is None or limit >= len(questions):
        return tuple(questions)
    drawn = sorted(questions, key=lambda one: hashlib.sha256(one.id.encode()).digest())[:limit]
    kept = {question.id for question in drawn}
    return tuple(question for question in questions if question.id in kept)


def run_task(
    task: Task,
    loaded: Loaded,
    assistant: VideoLlama,
    model: ModelFacts,
    out: Path,
    options: RunOptions = RunOptions(),
    *,
    judge: JudgeOptions | None = None,
    progress: Progress | None = None,
) -> Result:
    """Answer what is not answered yet, measure, and write the result.

    Args:
        task: the benchmark.
        loaded: its questions.
        assistant: the model.
        model: what to say of it.
        out: folder of the results.
        options: how it is run; see `RunOptions`.
        judge: who is asked about open answers.
        progress: called with the number of questions done and of all.

    Raises:
        OptionError: the folder holds answers of a run with other settings.
        OSError: the results cannot be written.
    """
    questions = loaded.found.questions
    settings = _settings(task, loaded, assistant, model, options)
    with open_answers(out / f"{task.name}.answers.jsonl", settings) as journal:
        _Run(task, loaded.data, assistant, options, journal).answer(questions, progress)
        records = kept_records(journal)
    given = [records[question.id] for question in questions]
    answered = [
        Answered(question, record.prediction)
        for question, record in zip(questions, given, strict=True)
        if record.prediction is not None
    ]
    report = _report(
        task, loaded, model, options, settings, given, answered, str(assistant.model.device)
    )
    fault = ""
    if judge and task.open_answers and answered:
        fault = _add_judge(report, answered, judge, out / f"{task.name}.judge.jsonl", progress)
    path = out / f"{task.name}.json"
    write_json(path, report)
    return Result(task.name, report, path, fault)


@dataclass
class _Run:
    """The answering of questions. `encoded` holds the media of the latest batch."""

    task: Task
    data: Path
    assistant: VideoLlama
    options: RunOptions
    journal: Journal
    encoded: dict[Medium, Attachment | MediaError] = field(default_factory=dict)

    @property
    def reading(self) -> MediaOptions:
        return MediaOptions(num_frames=self.options.num_frames, with_sound=self.options.with_sound)

    @property
    def max_new_tokens(self) -> int:
        return self.options.max_new_tokens or self.task.max_new_tokens

    def answer(self, questions: Sequence[Question], progress: Progress | None) -> None:
        """Every question that has no answer yet; what failed before is tried again."""
        kept = kept_records(self.journal)
        answered = {name for name, record in kept.items() if record.prediction is not None}
        missing = [question for question in questions if question.id not in answered]
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
        size = self.options.batch_size
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

    def _prepare(self, question: Question) -> tuple[Record, PreparedQuestion | None]:
        """The beginning of a record, and the prompt if there is nothing in its way."""
        record = Record(
            id=question.id,
            media=_medium_name(question.medium, self.data),
            question=question.text,
            reference=question.references,
            kind=question.kind,
        )
        encoded = self.encoded[question.medium]
        if isinstance(encoded, MediaError):
            absent = not question.medium.path.exists()
            return replace(record, absent=absent, failed="" if absent else str(encoded)), None
        try:
            ready = prepare(
                question,
                encoded,
                self.assistant,
                instruction=self.options.instruction,
                max_new_tokens=self.max_new_tokens,
            )
        except PromptTooLongError as error:
            return replace(record, failed=str(error)), None
        return replace(record, sound=encoded.use.sound), ready


def _settings(
    task: Task, loaded: Loaded, assistant: VideoLlama, model: ModelFacts, options: RunOptions
) -> dict[str, Any]:
    """What decides the answers: a run goes on only with the same."""
    return {
        "task": task.name,
        **model.checksums,
        "quantization": model.quantization,
        "dtype": str(assistant.model.dtype).removeprefix("torch."),
        "template": assistant.processor.template,
        "num_frames": options.num_frames or assistant.processor.num_frames,
        "sound": options.with_sound and assistant.processor.has_audio_branch,
        "generation": {
            "do_sample": False,
            "max_new_tokens": options.max_new_tokens or task.max_new_tokens,
        },
        "instruction": options.instruction,
        "data": describe_files(loaded.found.files),
    }


def _report(
    task: Task,
    loaded: Loaded,
    model: ModelFacts,
    options: RunOptions,
    settings: dict[str, Any],
    given: Sequence[Record],
    answered: Sequence[Answered],
    device: str,
) -> dict[str, Any]:
    right = {}
    report: dict[str, Any] = {
        "task": task.name,
        "n": len(given),
        "answered": len(answered),
        "failed": sum(bool(record.failed) for record in given),
        "absent": sum(record.absent for record in given),
        "metrics": {},
        "chance": {},
    }
    if answered:
        measured = task.measure(answered)
        report |= {
            "metrics": measured.metrics,
            "chance": {**measured.chance, "rule": measured.chance_rule},
        }
        right = {
            one.question.id: value for one, value in zip(answered, measured.right, strict=True)
        }
    return report | {
        "model": model.name,
        "device": device,
        "settings": {**settings, "limit": options.limit, "batch_size": options.batch_size},
        "software": describe_software(),
        "sound": dict(Counter(record.sound for record in given if record.sound)),
        "seconds": round(sum(record.seconds for record in given), 2),
        "notes": list(loaded.found.notes),
        "answers": [
            {**record.to_json(), **({"right": right[record.id]} if record.id in right else {})}
            for record in given
        ],
    }


def _add_judge(
    report: dict[str, Any],
    answered: Sequence[Answered],
    options: JudgeOptions,
    path: Path,
    progress: Progress | None,
) -> str:
    """Add what a judge says; "" or why it could not be had. The other measures stand by then."""
    with Journal(path) as journal:
        judge = Judge(options, journal)
        try:
            verdicts = judge.verdicts(answered, progress)
        except JudgeError as error:
            report["judge"] = {**judge.describe(), "error": str(error)}
            return str(error)
        report["judge"] = {**judge.describe(), **judge_metrics(verdicts)}
    by_id = {one.question.id: verdict for one, verdict in zip(answered, verdicts, strict=True)}
    for answer in report["answers"]:
        verdict = by_id.get(answer["id"])
        if verdict:
            answer["judge"] = {"correct": verdict.correct, "score": verdict.score}
    return ""


def _by_medium(questions: Sequence[Question]) -> list[Question]:
    """Questions about one medium next to each other, media in the order of their first question."""
    groups: dict[Medium, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.medium, []).append(question)
    return [question for group in groups.values() for question in group]


def _require_unique(task: Task, found: QuestionSet) -> None:
    counts = Counter(question.id for question in found.questions)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"{task.name}: the question {twice[0]!r} is there {counts[twice[0]]} times")


def _medium_name(medium: Medium, data: Path) -> str:
    name = _relative(medium.path, data)
    if medium.start is None and medium.end is None:
        return name
    start = f"{medium.start or 0:g}"
    return f"{name} {start}-{'' if medium.end is None else f'{medium.end:g}'} s"


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path.name)

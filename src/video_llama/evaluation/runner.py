"""A whole benchmark: its questions read, answered and measured, and the result written."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from video_llama.attachment import MediaOptions
from video_llama.chat import VideoLlama
from video_llama.errors import DataError, JudgeError, OptionError
from video_llama.evaluation.asking import Asking, Progress, relative_name
from video_llama.evaluation.endpoint import JudgeOptions
from video_llama.evaluation.journal import Journal, write_json
from video_llama.evaluation.judge import Judge, judge_metrics
from video_llama.evaluation.results import (
    Record,
    describe_files,
    describe_software,
    kept_records,
    makers_of,
    open_answers,
)
from video_llama.evaluation.task import Answered, Question, QuestionSet, Task, drawn


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
        judge_fault: why there is no verdict of a judge though one was asked; "" otherwise.
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
    if not any(os.path.exists(question.medium.path) for question in chosen):  # noqa: PTH110
        few = f" of the {len(chosen)} questions that were drawn" if limit is not None else ""
        raise DataError(
            f"{task.name}: none of the media{few} is below {data}, the first being "
            f"{relative_name(chosen[0].medium.path, data)}; put them there, or a link to them"
        )
    return Loaded(data, replace(found, questions=chosen))


def sample(questions: Sequence[Question], limit: int | None) -> tuple[Question, ...]:
    """So many of the questions, in their order; see `drawn`."""
    if limit is None or limit >= len(questions):
        return tuple(questions)
    kept = drawn((question.id for question in questions), limit)
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
        asking = Asking(
            data=loaded.data,
            assistant=assistant,
            reading=MediaOptions(num_frames=options.num_frames, with_sound=options.with_sound),
            instruction=options.instruction,
            max_new_tokens=options.max_new_tokens or task.max_new_tokens,
            batch_size=options.batch_size,
            journal=journal,
            maker={"software": describe_software(), "device": str(assistant.model.device)},
        )
        asking.answer(questions, progress)
        records = kept_records(journal)
        makers = makers_of(journal) or [{"software": None, "device": None}]
    given = [records[question.id] for question in questions]
    answered = [
        Answered(question, record.prediction)
        for question, record in zip(questions, given, strict=True)
        if record.prediction is not None
    ]
    report = _report(task, loaded, model, options, settings, given, answered, makers)
    fault = ""
    if judge and task.open_answers and answered:
        fault = _add_judge(report, answered, judge, out / f"{task.name}.judge.jsonl", progress)
    path = out / f"{task.name}.json"
    write_json(path, report)
    return Result(task.name, report, path, fault)


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
    makers: Sequence[dict[str, Any]],
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
        "device": makers[-1]["device"],
        "settings": {**settings, "limit": options.limit, "batch_size": options.batch_size},
        "software": makers[-1]["software"],
        "sound": dict(Counter(record.sound for record in given if record.sound)),
        "seconds": round(sum(record.seconds for record in given), 2),
        "notes": [*loaded.found.notes, *_other_makers(makers)],
        "answers": [
            {**record.to_json(), **({"right": right[record.id]} if record.id in right else {})}
            for record in given
        ],
    }


def _other_makers(makers: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Notes on earlier parts of a run that another version, or another device, has answered."""
    for maker in makers[:-1]:
        if maker != makers[-1]:
            software = ", ".join(f"{name} {value}" for name, value in maker["software"].items())
            yield f"some answers were given on {maker['device']} with {software}"


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
    if not any(verdicts):
        fault = (
            f"none of the {len(verdicts)} replies of the judge {options.model} can be read as a "
            f"verdict; see what it said in {path.name}, and name another --judge-model"
        )
        report["judge"]["error"] = fault
        return fault
    by_id = {one.question.id: verdict for one, verdict in zip(answered, verdicts, strict=True)}
    for answer in report["answers"]:
        verdict = by_id.get(answer["id"])
        if verdict:
            answer["judge"] = {"correct": verdict.correct, "score": verdict.score}
    return ""


def _require_unique(task: Task, found: QuestionSet) -> None:
    counts = Counter(question.id for question in found.questions)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"{task.name}: the question {twice[0]!r} is there {counts[twice[0]]} times")

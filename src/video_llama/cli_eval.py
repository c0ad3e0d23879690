"""`video-llama eval`: benchmarks, with their numbers and every answer kept in a folder."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.checkpoints import MODEL_FOLDER
from video_llama.terminal import (
    loading,
    prepare_libraries,
    print_json,
    print_warnings,
    reporting,
    write,
)

if TYPE_CHECKING:
    from video_llama.evaluation.endpoint import JudgeOptions
    from video_llama.evaluation.runner import Result

RESULTS = Path("results")


def evaluate(
    *,
    tasks: Annotated[list[str] | None, typer.Argument(metavar="TASK", hidden=True)] = None,
    list_tasks: Annotated[
        bool, typer.Option("--list", help="List the benchmarks and the files they want.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="'nano', a directory or a hub id.")
    ] = "nano",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Files of the benchmark, or a folder of each one's name."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where results go.  [default: results/ and the model]"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="A sample of N questions of each.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Questions at once; changes the speed only.")
    ] = 8,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Frames of a video.  [default: as the model was made]"
        ),
    ] = None,
    no_sound: Annotated[bool, typer.Option("--no-sound", help="Leave all sound out.")] = False,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Longest answer.  [default: by the benchmark]"),
    ] = None,
    instruction: Annotated[
        str, typer.Option(metavar="TEXT", help="After each question: 'Answer in one word.'")
    ] = "",
    judge: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Also ask a model behind this OpenAI-like address."),
    ] = None,
    judge_model: Annotated[
        str, typer.Option(metavar="NAME", help="Its name there, which pins it.")
    ] = "",
    judge_seed: Annotated[int, typer.Option(metavar="N", help="Sent along with it.")] = 0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="'auto', 'cpu', 'cuda', 'cuda:1', ...")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="'auto', 'bf16', 'fp16' or 'fp32'.")
    ] = "auto",
    quantization: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="'int8': keep the language model's weights in 8 bits."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, without the answers.")
    ] = False,
) -> None:
    """Measure a model on benchmarks.

    The folder of the results gets TASK.json with metrics, chance level, checksums of the model and
    the data, settings and every answer. A run that was broken off goes on where it stopped. Media
    that are not there ("absent") or cannot be used ("failed") are counted apart, never as wrong.

    Open answers are compared with the true ones word by word; a judge can be asked besides, whose
    key is taken from VIDEO_LLAMA_JUDGE_KEY and kept nowhere.

    \b
    Example:
      video-llama eval --list
      video-llama eval world --limit 200
      video-llama eval msvd-qa pope --model models/mine --data benchmarks --batch 16
      video-llama eval msvd-qa --data msvd --judge http://localhost:8000/v1 --judge-model qwen3

    Exit status 1 when a benchmark could not be run, none of its questions could be answered, or a
    judge could not be asked or understood.
    """
    if list_tasks:
        _list(as_json)
        return
    if not tasks:
        raise typer.BadParameter("name a benchmark; --list shows them")
    if judge_model and not judge:
        raise typer.BadParameter("--judge-model goes with --judge")
    prepare_libraries()
    with reporting(as_json):
        results = _run(
            tasks,
            model,
            data,
            out,
            reading={
                "limit": limit,
                "batch_size": batch,
                "num_frames": frames,
                "with_sound": not no_sound,
                "max_new_tokens": max_new_tokens,
                "instruction": instruction,
            },
            loading_options={
                "device": device,
                "dtype": dtype,
                "quantization": quantization,
                "offline": offline or None,
            },
            judge=_judge(judge, judge_model, judge_seed),
            show=not as_json,
        )
    if as_json:
        print_json({"results": [_without_answers(result) for result in results]})
    failed = [result for result in results if result.report["failed"]]
    print_warnings(failure_text(result) for result in failed if result.report["answered"])
    faults = [failure_text(result) for result in failed if not result.report["answered"]]
    faults += [result.judge_fault for result in results if result.judge_fault]
    for fault in faults:
        write(f"error: {fault}\n", sys.stderr)
    if faults:
        raise SystemExit(1)


def _run(
    names: list[str],
    model: str,
    data: Path | None,
    out: Path | None,
    *,
    reading: dict[str, Any],
    loading_options: dict[str, Any],
    judge: "JudgeOptions | None",
    show: bool,
) -> "list[Result]":
    """All data are looked at before the model is loaded, so that mistakes show at once."""
    with loading():
        from video_llama.chat import VideoLlama
        from video_llama.checkpoints.hub import resolve
        from video_llama.checkpoints.load import read_config
        from video_llama.evaluation.results import describe_model
        from video_llama.evaluation.runner import ModelFacts, RunOptions, load_questions, run_task
        from video_llama.evaluation.tasks import get_task

    chosen = [get_task(name) for name in dict.fromkeys(names)]
    options = RunOptions(**reading)
    directory = resolve(model, offline=loading_options["offline"])
    read_config(directory)
    folder = out or RESULTS / results_name(directory)
    loaded = [load_questions(task, data, folder, options.limit) for task in chosen]
    checksums = describe_model(directory, offline=loading_options["offline"])
    facts = ModelFacts(model, checksums, loading_options["quantization"])
    with loading():
        assistant = VideoLlama.load(model, **loading_options)
    results = []
    for task, questions in zip(chosen, loaded, strict=True):
        result = run_task(
            task,
            questions,
            assistant,
            facts,
            folder,
            options,
            judge=judge,
            progress=_progress(task.name),
        )
        print_warnings(f"{task.name}: {note}" for note in questions.found.notes)
        if judge and not task.open_answers:
            print_warnings([f"{task.name} has no open answers; the judge is not asked about it"])
        if show:
            write(result_text(result), sys.stdout)
        results.append(result)
    return results


def results_name(directory: Path) -> str:
    """The name of the folder of a model's results: the model's, or its run's where the model is the
    folder "model" of a training run."""
    directory = directory.resolve()
    if directory.name == MODEL_FOLDER and directory.parent.name:
        return directory.parent.name
    return directory.name


def failure_text(result: "Result") -> str:
    """How many questions failed, of a result that has such, and why the first did."""
    report = result.report
    reason = next(answer["failed"] for answer in report["answers"] if answer.get("failed"))
    counts = f"{report['failed']:,} of {report['n']:,} questions failed"
    return f"{result.task}: {counts}; the first: {reason}"


def result_text(result: "Result") -> str:
    """A result for people to read."""
    report = result.report
    counts = [f"{report['n']:,} questions", f"{report['answered']:,} answered"]
    counts += [f"{report[name]:,} {name}" for name in ("failed", "absent")]
    lines = [f"{result.task}: {', '.join(counts)}"]
    metrics, chance = report["metrics"], report["chance"]
    for name, value in metrics.items():
        if not isinstance(value, dict):
            beside = f"   (chance {chance[name]:.4f})" if name in chance else ""
            lines.append(f"  {name:<16} {_number(value)}{beside}")
    if chance.get("rule"):
        lines.append(f"  chance: {chance['rule']}")
    for title, table in metrics.items():
        if isinstance(table, dict):
            lines += _table(title, table)
    if "judge" in report and "accuracy" in report["judge"]:
        said = report["judge"]
        lines.append(
            f"  judge {said['model']}: accuracy {_number(said['accuracy'])}, "
            f"score {_number(said['score'], 2)} of 5, {said['unreadable']} unreadable"
        )
    return "\n".join([*lines, f"  {result.path}", ""])


def _table(title: str, table: dict[str, Any]) -> list[str]:
    """Rows of numbers with one line each; a single row where the values are numbers."""
    rows = table if all(isinstance(row, dict) for row in table.values()) else {title: table}
    columns = list(next(iter(rows.values())))
    width = max(len(name) for name in [*rows, title])
    widths = [max(len(column), 7) for column in columns]
    names = " ".join(f"{name:>{w}}" for name, w in zip(columns, widths, strict=True))
    lines = [f"  {'':<{width}} {names}"]
    for name, row in rows.items():
        numbers = " ".join(
            f"{_number(row[column]):>{w}}" for column, w in zip(columns, widths, strict=True)
        )
        lines.append(f"  {name:<{width}} {numbers}")
    return lines


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def _list(as_json: bool) -> None:
    with loading():
        from video_llama.evaluation.tasks import TASKS

    if as_json:
        print_json(
            {
                "tasks": [
                    {"name": task.name, "about": task.about, "files": task.expects}
                    for task in TASKS.values()
                ]
            }
        )
        return
    width = max(map(len, TASKS))
    for task in TASKS.values():
        write(f"{task.name:<{width}}  {task.about}\n", sys.stdout)
        write(f"{'':<{width}}  {task.expects}\n", sys.stdout)


def _judge(url: str | None, model: str, seed: int) -> "JudgeOptions | None":
    if url is None:
        return None
    from video_llama.evaluation.endpoint import JudgeOptions

    return JudgeOptions(url, model, seed)


def _without_answers(result: "Result") -> dict[str, Any]:
    kept = {name: value for name, value in result.report.items() if name != "answers"}
    return {**kept, "file": str(result.path)}


def _progress(name: str) -> Callable[[int, int], None] | None:
    """Shows how far it is, and what is left, where someone watches; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    import time

    started = time.monotonic()
    first: list[int] = []

    def show(done: int, total: int) -> None:
        first[:] = first or [done]
        fresh = done - first[0]
        left = (time.monotonic() - started) / fresh * (total - done) if fresh else 0.0
        end = "\n" if done == total else f", {left / 60:.0f} min left    " if fresh else ""
        write(f"\r{name}: {done:,} of {total:,}{end}", sys.stderr)

    return show

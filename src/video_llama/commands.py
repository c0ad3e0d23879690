"""What each command does, once its arguments are read. Heavy imports happen inside."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama import repl
from video_llama.terminal import (
    is_there,
    loading,
    prepare_libraries,
    print_json,
    print_warnings,
    reporting,
    write,
)

if TYPE_CHECKING:
    from video_llama.answer import Answer
    from video_llama.chat import VideoLlama
    from video_llama.checkpoints.convert import ConversionReport
    from video_llama.checkpoints.verify import VerifyReport

# Suffixes that make a word look like a file. What a file is, its content decides.
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv")
PICTURE_SUFFIXES = (".gif", ".webp", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
SOUND_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac")
MEDIA_SUFFIXES = frozenset(VIDEO_SUFFIXES + PICTURE_SUFFIXES + SOUND_SUFFIXES)
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it is loaded; see `VideoLlama.load`."""

    model: str
    device: str
    dtype: str
    quantization: str | None
    offline: bool


def run_ask(
    choice: ModelChoice,
    media: Sequence[str],
    question: str,
    *,
    reading: dict[str, Any],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Answer one question on stdout."""
    with reporting(as_json):
        started = time.perf_counter()
        with loading():
            assistant = _load(choice, media, options)
        load_seconds = time.perf_counter() - started
        session = assistant.chat(_sources(media), **_with_policy(reading))
        if as_json:
            answer = session.answer(question, **options)
            print_json(answer_json(answer, choice.model, question, load_seconds))
        else:
            for piece in session.stream(question, **options):
                write(piece, sys.stdout)
            write("\n", sys.stdout)
            assert session.last_answer is not None
            answer = session.last_answer
            print_warnings(repl.cut_warning(answer))
        print_warnings(answer.warnings)


def answer_json(answer: "Answer", model: str, question: str, load_seconds: float) -> dict[str, Any]:
    """What `ask --json` prints. "total" counts from the beginning of loading the model."""
    fields = answer.to_json()
    timings = {"load": load_seconds, **fields["timings"]}
    timings["total"] += load_seconds
    fields["timings"] = {name: round(seconds, 4) for name, seconds in timings.items()}
    return {"model": model, "question": question, **fields}


def argument_mistake(media: Sequence[str], question: str) -> str | None:
    """What is wrong with the arguments of `ask`, if something plainly is."""
    if not media and _is_medium(question):
        return (
            f'{question!r} is a file, and the question is missing: ask {question} "What happens?"'
        )
    if not media:
        return f"no media are given: ask MEDIA... {question!r}"
    if is_there(question) and Path(question).is_file():
        return f"the question comes last, and {question!r} is a file"
    named = _is_address(question) or Path(question).suffix.lower() in MEDIA_SUFFIXES
    if named and len(question.split()) == 1:
        return f"{question!r} is one more medium, and the question is missing; it comes last"
    if len(media) == 1 and any(mark in question for mark in " ?？"):
        return None  # the question is whole; a file that is not there is told of as such
    for word in media:
        if not _looks_like_file(word) and word != STANDARD_INPUT:
            return (
                f"there is no file {word!r}; if it belongs to the question, "
                "put the whole question in quotes, after the media"
            )
    return None


def _is_medium(text: str) -> bool:
    return _is_address(text) or Path(text).suffix.lower() in MEDIA_SUFFIXES or is_there(text)


def _looks_like_file(text: str) -> bool:
    return "/" in text or _is_medium(text)


def _is_address(text: str) -> bool:
    return "://" in text or text.startswith("data:")


def run_chat(
    choice: ModelChoice,
    media: Sequence[str],
    *,
    reading: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Talk until the input ends. Exit status 1 when a question from a pipe failed."""
    with reporting():
        with loading():
            assistant = _load(choice, media, options)
        session = assistant.chat(_sources(media), **_with_policy(reading))
    talk = repl.Repl(session, **options)
    if sys.stdin.isatty():
        for use in session.media:
            write(repl.media_line(use) + "\n", sys.stdout)
        write("Ask something; /help lists the commands.\n", sys.stdout)
        talk.run(repl.typed_lines())
    elif not talk.run(sys.stdin):
        raise SystemExit(1)


def run_convert(
    source: str | None,
    output: Path,
    *,
    parts: dict[str, str | None],
    offline: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Published files into one directory; `settings` are those of `checkpoints.convert.convert`."""
    from video_llama.checkpoints.convert import convert
    from video_llama.checkpoints.hub import resolve
    from video_llama.checkpoints.sources import PublishedFiles

    prepare_libraries()
    with reporting(as_json):
        given = {name: Path(place) for name, place in parts.items() if place}
        if "language_model" in given:
            name = parts["language_model"] or ""
            given["language_model"] = resolve(name, offline=offline or None, everything=True)
        folder = source and resolve(source, offline=offline or None, everything=True)
        report = convert(folder or None, output, files=PublishedFiles(**given), **settings)
        print_warnings(report.warnings)
        if as_json:
            print_json(report.to_dict())
        else:
            write(conversion_text(report, output), sys.stdout)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """["a.b=3", "c=text"] -> {"a.b": 3, "c": "text"}: values are JSON where they can be."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
    return parsed


def conversion_text(report: "ConversionReport", output: Path) -> str:
    """A conversion for people to read."""
    sound = "with" if report.audio_branch else "without"
    return (
        f"{output}: {report.parameters / 1e6:,.1f} million parameters, template "
        f"{report.template}, {sound} audio branch\n"
        f"{len(report.sources)} files read, {len(report.dropped)} keys without use left out "
        "(conversion.json lists them)\n"
    )


def run_convert_back(directory: str, output: Path, *, offline: bool, as_json: bool) -> None:
    """A directory of ours into the files of the published layout."""
    from video_llama.checkpoints.back import to_published_files
    from video_llama.checkpoints.hub import resolve

    prepare_libraries()
    with reporting(as_json):
        written = to_published_files(resolve(directory, offline=offline or None), output)
        names = {kind: str(path) for kind, path in written.items()}
        if as_json:
            print_json(names)
        else:
            write("".join(f"{kind}: {name}\n" for kind, name in names.items()), sys.stdout)


def run_verify(directory: str, *, deep: bool, offline: bool, as_json: bool) -> None:
    """Say what a directory holds and what does not fit. Exit status 1 when something does not."""
    from video_llama.checkpoints.hub import resolve
    from video_llama.checkpoints.verify import verify

    prepare_libraries()
    with reporting(as_json):
        place = resolve(directory, offline=offline or None)
        if not (place / "config.json").is_file():  # published files lie beside no config.json
            place = resolve(directory, offline=offline or None, everything=True)
        report = verify(place, deep=deep, offline=offline or None)
        if as_json:
            print_json(report.to_dict())
        else:
            write(verification_text(report), sys.stdout)
    if not report.passed:
        raise SystemExit(1)


def verification_text(report: "VerifyReport") -> str:
    """A report for people to read."""
    what = {"model": "a model", "published": "published files, to be converted"}
    lines = [f"{report.name}: {what.get(report.kind, 'not a model')}"]
    if report.parameters:
        types = ", ".join(report.dtypes)
        lines.append(f"  {report.parameters / 1e6:,.1f} million parameters ({types})")
    if report.template:
        lines.append(f"  template {report.template}")
    if report.has_audio_branch is not None:
        lines.append(f"  audio branch: {'yes' if report.has_audio_branch else 'no'}")
    lines += [f"  {part}: {', '.join(names)}" for part, names in report.parts.items()]
    for check in report.checks:
        mark = "ok  " if check.passed else "FAIL"
        lines.append(f"  {mark} {check.name}{': ' + check.detail if check.detail else ''}")
    return "\n".join([*lines, "nothing wrong" if report.passed else "something is wrong", ""])


def run_world(output: Path, *, count: int, seed: int, as_json: bool, **settings: Any) -> None:
    """Write clips of the synthetic world."""
    from video_llama.data.world.write import write_world

    def show(done: int) -> None:
        write(f"\r{done} of {count}{chr(10) if done == count else ''}", sys.stderr)

    with reporting(as_json):
        progress = show if sys.stderr.isatty() else None
        listing = write_world(output, count, seed, progress=progress, **settings)
        if as_json:
            print_json({"listing": str(listing), "count": count, "seed": seed})
        else:
            write(f"{listing}: {count} clips with their questions and answers\n", sys.stdout)


def _load(choice: ModelChoice, media: Sequence[str], options: dict[str, Any]) -> "VideoLlama":
    """The model; mistakes that show without it are told before it is loaded."""
    prepare_libraries()
    from video_llama.chat import VideoLlama
    from video_llama.generation import GenerationOptions
    from video_llama.media.source import ByteSource, Limits, SourcePolicy, open_source

    GenerationOptions.of(options)
    for place in media:
        if place != STANDARD_INPUT and not _is_address(place):
            opened = open_source(place, Limits(), SourcePolicy())
            assert isinstance(opened, ByteSource)
            with opened:
                pass
    return VideoLlama.load(
        choice.model,
        device=choice.device,
        dtype=choice.dtype,
        quantization=choice.quantization,
        offline=choice.offline or None,
    )


def _sources(media: Sequence[str]) -> list[Any]:
    """Media as given; "-" is the standard input."""
    return [sys.stdin.buffer if place == STANDARD_INPUT else place for place in media]


def _with_policy(reading: dict[str, Any]) -> dict[str, Any]:
    """Allowed hosts, given as a list of names, as a policy."""
    from video_llama.media.source import SourcePolicy

    hosts = frozenset(reading.pop("allowed_hosts", ()))
    # Who types a command names the hosts of a private network, too.
    return {**reading, "policy": SourcePolicy(private_hosts=hosts)}

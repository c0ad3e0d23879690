"""What a directory holds, and what in it does not fit.

Shapes are read from the headers of the weight files; tensors are read for `deep` only.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from video_llama.checkpoints.checks import require_merged, require_same_width, require_vocabulary
from video_llama.checkpoints.load import (
    empty_model,
    is_run,
    load_processor,
    read_config,
    whole_model,
)
from video_llama.checkpoints.part import PART_FILE, TRAINED_FILE, put_in, read_part
from video_llama.checkpoints.plan import Plan, final_norm, make_plan
from video_llama.checkpoints.readers import SUFFIXES, TensorInfo, open_tensors, read_header
from video_llama.checkpoints.sources import (
    PublishedFiles,
    branch_files,
    find_files,
    language_model_config,
    recognise,
)
from video_llama.checkpoints.styles import choose_style, collect_evidence
from video_llama.checkpoints.writer import model_files
from video_llama.errors import CheckpointError, VideoLlamaError
from video_llama.models import VideoLlamaConfig
from video_llama.processing.processor import VideoLlamaProcessor

T = TypeVar("T")

_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `detail` says what does not fit and what to do."""

    name: str
    passed: bool
    detail: str = ""


@dataclass
class VerifyReport:
    """What a directory holds.

    `kind` is "model" (a directory of ours), "published" (files to be converted) or "unknown".
    `sizes` are numbers of the configuration; `parts` published files by what they are.
    """

    kind: Literal["model", "published", "unknown"]
    name: str
    template: str | None = None
    has_audio_branch: bool | None = None
    parameters: int = 0
    bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Nothing that was looked at is wrong."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}

    def check(self, name: str, look: Callable[[], T]) -> T | None:
        """What `look` gives; None, and a failed check, when it raises one of our errors."""
        try:
            value = look()
        except VideoLlamaError as error:
            self.checks.append(Check(name, False, str(error)))
            return None
        self.checks.append(Check(name, True))
        return value


def verify(
    directory: str | Path, *, deep: bool = False, offline: bool | None = None
) -> VerifyReport:
    """Look at a directory. `deep` reads every tensor of a model for values that are not finite.
    `offline` is as in `resolve`, for the model that a part belongs to.

    What is wrong stands in the report. Raises CheckpointError only when there is no directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"no such directory: {directory}")
    name = directory.resolve().name
    if is_run(directory):
        report = VerifyReport("unknown", name)
        report.check("contents", lambda: read_config(directory))
    elif _is_ours(directory):
        report = VerifyReport("model", name)
        _verify_model(report, directory, deep, offline)
    elif _holds_weights(directory):
        report = VerifyReport("published", name)
        _verify_published(report, directory)
    else:
        what = "neither a model's config.json nor files of weights; give the directory of a model"
        report = VerifyReport(
            "unknown", name, checks=[Check("contents", False, f"there is {what}")]
        )
    return report


def _verify_model(report: VerifyReport, directory: Path, deep: bool, offline: bool | None) -> None:
    config = report.check("configuration", lambda: read_config(directory))
    if config is None:
        return
    report.has_audio_branch = config.has_audio_branch
    report.sizes = _sizes(config)
    part = None
    if (directory / PART_FILE).is_file():
        part = report.check("part", lambda: read_part(directory))
    if part is not None:
        report.check("model it belongs to", lambda: whole_model(directory, part, offline=offline))
    trained = directory / TRAINED_FILE
    infos = report.check(
        "weight files", lambda: read_header(trained) if part else _read_infos(directory)
    )
    if infos is not None:
        _count(report, infos.values())
        fits = _require_part_fits if part else _require_fit
        report.check("keys and shapes", lambda: fits(infos, config))
        if deep:
            paths = {trained} if part else set(model_files(directory).values())
            report.check("finite values", lambda: _require_finite(paths))
    processor = report.check("processor", lambda: load_processor(directory))
    if processor is not None:
        report.template = processor.template
        report.check("tokenizer", lambda: _require_tokenizer(processor, config))
        report.check("processor's sizes", lambda: _require_same_sizes(processor, config))


def _verify_published(report: VerifyReport, directory: Path) -> None:
    parts = report.check("files", lambda: recognise(directory))
    if parts is None:
        return
    for kind, paths in parts.items():
        report.parts[kind] = [path.name for path in paths]
    if not parts:
        report.kind = "unknown"
    report.has_audio_branch = "audio_branch" in parts and "imagebind" in parts
    audio = "audio_branch" in parts or "imagebind" in parts  # one without the other is a failure
    found = report.check("parts", lambda: find_files(directory, PublishedFiles(), audio=audio))
    plan = None if found is None else report.check("keys", lambda: _plan(report, found))
    if found is None or plan is None or found.language_model is None:
        return
    model = found.language_model
    config = report.check("language model", lambda: language_model_config(model))
    if config is None:
        return
    shapes = plan.shapes
    report.check("widths", lambda: require_same_width(shapes, config.hidden_size))
    report.check("vocabulary", lambda: require_vocabulary(shapes, model, config.vocab_size))
    report.check("merged", lambda: require_merged(model, config.model_type, final_norm(plan)))
    branches = {path: plan.extras[path] for path in branch_files(found)}
    evidence = report.check("evidence", lambda: collect_evidence(model, config, branches)) or []
    if any(entry.certain for entry in evidence):  # else it is an option of the conversion
        chosen = report.check("template", lambda: choose_style(None, evidence))
        report.template = None if chosen is None else chosen[0]


def _plan(report: VerifyReport, found: PublishedFiles) -> Plan:
    plan = make_plan(found, audio=bool(report.has_audio_branch))
    _count(report, (piece.info for parts in plan.pieces.values() for piece in parts.values()))
    return plan


def _is_ours(directory: Path) -> bool:
    config = directory / "config.json"
    if not config.is_file():
        return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:  # a broken one is reported as ours is: by the check that reads it
        return True
    return isinstance(content, dict) and content.get("model_type") == VideoLlamaConfig.model_type


def _holds_weights(directory: Path) -> bool:
    folders = [directory, *(path for path in directory.iterdir() if path.is_dir())]
    return any(path.suffix in SUFFIXES for folder in folders for path in folder.iterdir())


def _read_infos(directory: Path) -> dict[str, TensorInfo]:
    files = model_files(directory)
    headers = {path: read_header(path) for path in set(files.values())}
    for name, path in files.items():
        if name not in headers[path]:
            raise CheckpointError(f"the index places '{name}' in {path.name}, which has it not")
    return {name: headers[path][name] for name, path in files.items()}


def _count(report: VerifyReport, infos: Iterable[TensorInfo]) -> None:
    dtypes: Counter[str] = Counter()
    for info in infos:
        report.parameters += torch.Size(info.shape).numel()
        report.bytes += info.num_bytes
        dtypes[str(info.dtype).removeprefix("torch.")] += 1
    report.dtypes = dict(dtypes)


def _require_fit(infos: dict[str, TensorInfo], config: VideoLlamaConfig) -> None:
    model = empty_model(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    missing = sorted(set(expected) - set(infos) - tied)
    unknown = sorted(set(infos) - set(expected))
    misshapen = [name for name in expected if name in infos and infos[name].shape != expected[name]]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for names, what in (
            (missing, "missing"),
            (unknown, "unknown"),
            (misshapen, "of another shape"),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"the weights do not fit config.json: {'; '.join(problems)}; convert or download again"
        )


def _require_part_fits(infos: dict[str, TensorInfo], config: VideoLlamaConfig) -> None:
    """There is a place for everything that was trained."""
    model = empty_model(config)
    empty = {n: torch.empty(i.shape, dtype=i.dtype, device="meta") for n, i in infos.items()}
    put_in(model, empty, lora_scale=1.0)


def _require_finite(paths: Iterable[Path]) -> None:
    for path in sorted(paths):
        opened = open_tensors(path)
        for name in opened.tensors:
            tensor = opened.read(name)
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CheckpointError(f"'{name}' in {path.name} has values that are not finite")


def _require_tokenizer(processor: VideoLlamaProcessor, config: VideoLlamaConfig) -> None:
    length, rows = len(processor.tokenizer), config.text_config.vocab_size
    if length > rows:
        raise CheckpointError(
            f"the tokenizer has {length} tokens and the language model {rows} rows; take the "
            "tokenizer of this language model"
        )


def _require_same_sizes(processor: VideoLlamaProcessor, config: VideoLlamaConfig) -> None:
    wanted = {
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "audio_token_id": config.audio_token_id,
        "image_size": config.vision_config.image_size,
        "num_image_tokens": config.num_video_query_tokens,
        "num_video_tokens": config.num_video_query_tokens,
        "num_audio_tokens": config.num_audio_query_tokens if config.has_audio_branch else 0,
    }
    if config.has_audio_branch:
        wanted["num_mel_bins"] = config.imagebind_config.audio_mel_bins
        wanted["target_length"] = config.imagebind_config.audio_mel_frames
    for name, value in wanted.items():
        found = getattr(processor, name)
        if found != value:
            raise CheckpointError(
                f"processor_config.json has {name} {found} and the model {value}; set it to {value}"
            )


def _sizes(config: VideoLlamaConfig) -> dict[str, int]:
    sizes = {
        "vision_layers": config.vision_config.num_hidden_layers,
        "vision_width": config.vision_config.hidden_size,
        "image_size": config.vision_config.image_size,
        "max_frames": config.max_frames,
        "video_tokens": config.num_video_query_tokens,
        "language_model_layers": config.text_config.num_hidden_layers,
        "language_model_width": config.text_config.hidden_size,
        "vocabulary": config.text_config.vocab_size,
    }
    if config.has_audio_branch:
        sizes["audio_tokens"] = config.num_audio_query_tokens
        sizes["max_audio_clips"] = config.max_audio_clips
    return sizes

"""The files of a published Video-LLaMA, once, into a directory that this software runs.

    convert("Video-LLaMA-2-7B-Finetuned", "models/video-llama-2-7b")

The table of keys is `table.py`; what is refused, and why, is in `checks.py` and `styles.py`.
Peak memory stays near the largest single file of tensors: files are mapped one at a time and
written tensor by tensor.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig, PreTrainedConfig

from video_llama.checkpoints.checks import (
    EMBEDDINGS,
    require_merged,
    require_same_width,
    require_vocabulary,
)
from video_llama.checkpoints.hub import resolve
from video_llama.checkpoints.load import UNFIT
from video_llama.checkpoints.new_branches import write_new_branch
from video_llama.checkpoints.place import RECORD_NAME, require_free_place, whole_or_nothing
from video_llama.checkpoints.plan import (
    Dropped,
    Plan,
    drop_unused_blocks,
    final_norm,
    make_plan,
    require_fit,
    tensor_reader,
)
from video_llama.checkpoints.processor_files import write_processor
from video_llama.checkpoints.sizes import infer_config
from video_llama.checkpoints.sources import (
    DESCRIPTIONS,
    PublishedFiles,
    branch_files,
    find_files,
    language_model_config,
)
from video_llama.checkpoints.styles import Style, choose_style, collect_evidence
from video_llama.checkpoints.table import LOAD_ORDER, Kind
from video_llama.checkpoints.writer import MAX_SHARD_BYTES, write_model
from video_llama.errors import CheckpointError, OptionError
from video_llama.models import VideoLlamaConfig

DtypeName = Literal["keep", "bf16", "fp16", "fp32"]
DTYPES: dict[str, torch.dtype | None] = {
    "keep": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
_VERSIONED = ("video-llama", "torch", "transformers", "safetensors")


@dataclass(frozen=True)
class SourceFile:
    """A file that was read. `name` is its own, without the folder."""

    kind: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ConversionReport:
    """What was converted; written as `conversion.json` beside the weights."""

    template: Style
    dtype: str
    audio_branch: bool
    parameters: int
    sources: list[SourceFile]
    dropped: list[Dropped]
    warnings: list[str]
    overrides: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As it is written to JSON."""
        return asdict(self)


def convert(
    source: str | Path | None,
    output: str | Path,
    *,
    files: PublishedFiles | None = None,
    audio: bool = True,
    template: str | None = None,
    dtype: str = "keep",
    overrides: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    new_branches: bool = False,
    offline: bool | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ConversionReport:
    """Convert published files into one directory.

    `source` is a folder, or a hub id, in which every file that is not named in `files` is looked
    for; with everything named it may be None. `audio` False leaves the audio branch out.
    `template` is "vicuna" (Video-LLaMA 1) or "llama_2" (Video-LLaMA 2); it is needed when the
    files do not say. `dtype` "keep" writes every tensor in the type it has. `overrides` sets
    configuration fields that weights do not tell, by dotted name
    ("vision_config.num_attention_heads"). With `new_branches`, branches that are not there begin
    anew, as the first stage of training wants them.

    The directory appears whole or not at all. Raises CheckpointError, with the reason, for files
    that are missing, damaged or do not belong together, and OptionError for a bad option.
    """
    if dtype not in DTYPES:
        raise OptionError(f"no dtype is called {dtype!r}; give one of {', '.join(DTYPES)}")
    output = Path(output)
    require_free_place(output, overwrite)
    folder = None if source is None else resolve(source, offline=offline, everything=True)
    found = find_files(folder, files or PublishedFiles(), audio, new_branches=new_branches)
    language_model = _language_model(found)
    text_config = language_model_config(language_model)
    with _new_branches(found, text_config, overrides or {}, audio) as (found, new):
        plan = make_plan(found, audio)
        config = _checked_config(plan, language_model, text_config, overrides)
        branches = {path: plan.extras[path] for path in branch_files(found)}
        evidence = collect_evidence(language_model, text_config, branches)
        style, warnings = choose_style(template, evidence)
        warnings += [f"the {DESCRIPTIONS[kind].partition(' (')[0]} is new" for kind in new]

        infos = plan.infos(DTYPES[dtype], config)
        config.architectures = ["VideoLlamaForConditionalGeneration"]
        config.dtype = infos[EMBEDDINGS].dtype
        report = ConversionReport(
            template=style,
            dtype=dtype,
            audio_branch=config.has_audio_branch,
            parameters=sum(torch.Size(info.shape).numel() for info in infos.values()),
            sources=_sources(found, plan),
            dropped=plan.dropped,
            warnings=warnings,
            overrides=dict(overrides or {}),
            versions={name: version(name) for name in _VERSIONED},
        )
        with whole_or_nothing(output, infos) as directory:
            config.text_config._name_or_path = ""  # where it was read is nobody's business
            config.save_pretrained(directory)
            _generation_config(language_model, text_config).save_pretrained(directory)
            write_processor(directory, language_model, config, style)
            record = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
            (directory / RECORD_NAME).write_text(record + "\n", encoding="utf-8")
            write_model(directory, infos, tensor_reader(plan, infos), max_shard_bytes)
    return report


@contextlib.contextmanager
def _new_branches(
    found: PublishedFiles,
    text_config: PreTrainedConfig,
    overrides: Mapping[str, Any],
    audio: bool,
) -> Iterator[tuple[PublishedFiles, list[Kind]]]:
    """The files with those of new branches for the missing ones, which go when the block ends."""
    wanted: tuple[Kind, ...] = ("video_branch", "audio_branch") if audio else ("video_branch",)
    missing = [kind for kind in wanted if getattr(found, kind) is None]
    if not missing:
        yield found, []
        return
    shapes = make_plan(found, audio).shapes
    with tempfile.TemporaryDirectory() as folder:
        for kind in missing:
            path = Path(folder, f"new_{kind}.safetensors")
            projected = found.projection is not None
            write_new_branch(path, kind, shapes, text_config, overrides, projected=projected)
            found = replace(found, **{kind: path})
        yield found, missing


def _checked_config(
    plan: Plan,
    language_model: Path,
    text_config: PreTrainedConfig,
    overrides: Mapping[str, Any] | None,
) -> VideoLlamaConfig:
    shapes = plan.shapes
    require_vocabulary(shapes, language_model, text_config.vocab_size)
    require_same_width(shapes, text_config.hidden_size)
    try:
        config = infer_config(
            shapes, text_config, whole_vision_tower=plan.whole_vision_tower, overrides=overrides
        )
    except UNFIT as error:
        raise OptionError(f"the settings given (--set) do not fit: {error}") from error
    drop_unused_blocks(plan, config.vision_config.num_hidden_layers)
    require_fit(plan, config)
    require_merged(language_model, text_config.model_type, final_norm(plan))
    return config


def _language_model(found: PublishedFiles) -> Path:
    assert found.language_model is not None  # `find_files` saw to it
    return found.language_model


def _generation_config(directory: Path, text_config: PreTrainedConfig) -> GenerationConfig:
    """The language model's own ids of beginning, end and padding; no sampling settings."""
    own: dict[str, Any] = {}
    path = directory / "generation_config.json"
    if path.is_file():
        try:
            own = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{path.name} of the language model is no JSON: {error}"
            ) from error
        if not isinstance(own, dict):
            raise CheckpointError(f"{path.name} of the language model holds no settings")
    ids = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = own.get(name, getattr(text_config, name, None))
        if value is not None and value != -1:  # -1 is old LLaMA configurations' "none"
            ids[name] = value
    return GenerationConfig(**ids)


def _sources(found: PublishedFiles, plan: Plan) -> list[SourceFile]:
    language_model = _language_model(found)
    kinds = {getattr(found, kind): kind for kind in LOAD_ORDER}
    sources = []
    for path in plan.extras:
        kind = "language_model" if path.parent == language_model else kinds[path]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sources.append(SourceFile(kind, path.name, path.stat().st_size, digest))
    return sources

"""What a run begins with and learns from, as marks that change when it does."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from video_llama.checkpoints.part import fingerprint
from video_llama.data.formats import DatasetSpec, detect_format
from video_llama.data.shards import shard_paths
from video_llama.errors import TrainingError
from video_llama.training.prepare import base_directory
from video_llama.training.recipe import Recipe

WEIGHTS, DATA, VALIDATION = "model.path", "data", "validation.data"


def run_marks(recipe: Recipe) -> dict[str, str]:
    """Marks by the names of settings: the weights, and each data set with what is validated on.

    Media beside a file of data are not looked at.

    Raises:
        CheckpointError: the weights cannot be read.
        DataError: a file of data cannot be found.
    """
    marks = {WEIGHTS: fingerprint(base_directory(recipe))}
    for where, specs in ((DATA, recipe.data), (VALIDATION, recipe.validation.data)):
        marks |= {f"{where}.{number}": _data_mark(spec) for number, spec in enumerate(specs)}
    return marks


def require_same_marks(saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise TrainingError where weights or data are not those a run was begun with.

    Checkpoints of before there were marks have none, and nothing to compare.
    """
    for name, mark in saved.items():
        if name.startswith(VALIDATION) or now.get(name) == mark:
            continue
        held = "other weights" if name == WEIGHTS else "another content"
        raise TrainingError(
            f"{name} had {held} when the run to go on with was begun; give back what was there, "
            "or another output to begin anew"
        )


def validation_marks(marks: Mapping[str, str]) -> dict[str, str]:
    """Those of what is validated on."""
    return {name: mark for name, mark in marks.items() if name.startswith(VALIDATION)}


def _data_mark(spec: DatasetSpec) -> str:
    """Of a file its content; of shards, which are too many to read, their names and sizes."""
    kind = detect_format(spec.path) if spec.format == "auto" else spec.format
    if kind == "shards":
        names = [f"{path.name} {path.stat().st_size}\n" for path in shard_paths(spec.path)]
        return hashlib.sha256("".join(names).encode()).hexdigest()
    with Path(spec.path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What was trained, as a directory that can be loaded and asked."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from video_llama.checkpoints.load import kept_in_float32, load_model, load_processor, read_config
from video_llama.checkpoints.part import (
    LORA_A,
    PART_FILE,
    TRAINED_FILE,
    Part,
    adapted,
    fingerprint,
    put_in,
)
from video_llama.checkpoints.processor_files import copy_sentencepiece
from video_llama.errors import OptionError, TrainingError
from video_llama.home import spelled_out
from video_llama.training.atomic import new_folder, writing
from video_llama.training.checkpoint import TRAINED, Checkpoint, RunState
from video_llama.training.prepare import base_directory
from video_llama.training.recipe import Recipe

CARD = "training.json"


def require_place(recipe: Recipe, target: Path) -> None:
    """Refuse a run whose export would take the place of something else.

    Raises:
        OptionError: the model to begin with is there.
        TrainingError: what is there is no export.
    """
    if recipe.export.kind == "none" or not target.exists():
        return
    if target.resolve() == base_directory(recipe).resolve():
        raise OptionError(
            f"model.path is {target}, where this run would write its own model; give another output"
        )
    if not (target / CARD).is_file():
        raise TrainingError(
            f"{target} is not the model of a run and would be replaced; move it, or give another "
            "output"
        )


def is_exported(recipe: Recipe, state: RunState, target: Path) -> bool:
    """Whether a folder has what `export` would write for a checkpoint."""
    try:
        found = json.loads((target / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and _origin(recipe, state).items() <= found.items()


def export(recipe: Recipe, checkpoint: Checkpoint, target: Path) -> None:
    """Write the model of a recipe with what a checkpoint has trained, or that alone.

    A whole model keeps the types of weights it had.

    Raises:
        TrainingError: it could not be written; an older export is untouched.
    """
    base, trained, scale = base_directory(recipe), checkpoint.trained, _lora_scale(recipe)
    with writing(f"the model {target}"), new_folder(target) as folder:
        if recipe.export.kind == "part":
            _write_part(base, recipe.model.path, trained, scale, folder, target)
        else:
            dtype = read_config(base).dtype
            kept = dtype if isinstance(dtype, torch.dtype) else torch.float32
            model = load_model(base, device="cpu", dtype=kept)
            put_in(model, trained, scale)
            if kept != torch.float32:
                _put_back_exactly(model, base, trained, recipe)
            model.save_pretrained(folder)
            config = read_config(folder)
            config.dtype = kept
            config.save_pretrained(folder)
        load_processor(base).save_pretrained(folder)
        copy_sentencepiece(base, folder)
        about = {
            "recipe": recipe.name,
            **_origin(recipe, checkpoint.state),
            "tensors": len(trained),
            "adapters": sum(name.endswith(LORA_A) for name in trained),
        }
        (folder / CARD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _put_back_exactly(
    model: nn.Module, base: Path, trained: Mapping[str, torch.Tensor], recipe: Recipe
) -> None:
    """Tensors that the base keeps in float32, which the type of the whole model has rounded."""
    exact = kept_in_float32(base, offline=recipe.model.offline or None)
    sums = adapted(trained)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in exact and name not in sums:
            tensor.data = trained.get(name, exact[name])


def _origin(recipe: Recipe, state: RunState) -> dict[str, Any]:
    """What an export is made of, all that decides its bytes."""
    return {
        "kind": recipe.export.kind,
        "step": state.step,
        "base": recipe.model.path,
        "base_fingerprint": fingerprint(base_directory(recipe)),
        "trained_sha256": state.files[TRAINED],
        "lora_scale": _lora_scale(recipe),
    }


def _lora_scale(recipe: Recipe) -> float:
    return 1.0 if recipe.lora is None else recipe.lora.alpha / recipe.lora.rank


def _write_part(
    base: Path,
    name: str,
    trained: Mapping[str, torch.Tensor],
    scale: float,
    folder: Path,
    target: Path,
) -> None:
    save_file(dict(trained), folder / TRAINED_FILE)
    read_config(base).save_pretrained(folder)
    if Path(spelled_out(name)).is_dir():
        name = os.path.relpath(base.resolve(), target.resolve())
    part = Part(name, fingerprint(base), scale)
    (folder / PART_FILE).write_text(part.to_json(), encoding="utf-8")

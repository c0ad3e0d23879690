"""What was trained, as a directory that can be loaded and asked."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from video_llama.checkpoints.load import load_model, load_processor, read_config
from video_llama.checkpoints.part import (
    LORA_A,
    PART_FILE,
    TRAINED_FILE,
    Part,
    fingerprint,
    put_in,
    read_part,
)
from video_llama.training.atomic import new_folder, writing
from video_llama.training.prepare import base_directory
from video_llama.training.recipe import Recipe

CARD = "training.json"


def export(recipe: Recipe, trained: Mapping[str, torch.Tensor], step: int, target: Path) -> None:
    """Write the model of a recipe with trained tensors, or these alone.

    A whole model keeps the type of weights it had.

    Raises:
        TrainingError: it could not be written; an older export is untouched.
    """
    base = base_directory(recipe)
    scale = 1.0 if recipe.lora is None else recipe.lora.alpha / recipe.lora.rank
    with writing(f"the model {target}"), new_folder(target) as folder:
        if recipe.export.kind == "part":
            _write_part(base, recipe.model.path, trained, scale, folder, target)
        else:
            dtype = read_config(base).dtype
            kept = dtype if isinstance(dtype, torch.dtype) else torch.float32
            model = load_model(base, device="cpu", dtype=kept)
            put_in(model, trained, scale)
            model.save_pretrained(folder)
        load_processor(base).save_pretrained(folder)
        about = {
            "recipe": recipe.name,
            "step": step,
            "base": recipe.model.path,
            "tensors": len(trained),
            "adapters": sum(name.endswith(LORA_A) for name in trained),
        }
        (folder / CARD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


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
    place = os.path.relpath(base, target) if Path(name).expanduser().is_dir() else name
    mark = "" if read_part(base) is not None else fingerprint(base)
    (folder / PART_FILE).write_text(Part(place, mark, scale).to_json(), encoding="utf-8")

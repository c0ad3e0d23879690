"""Branches that have learnt nothing yet, as the first stage of training begins with them.

They have the published sizes, or those of the settings, and the original's initial values: BERT's
for the Q-Formers and their queries, PyTorch's own for positions and projectors, whose biases begin
at nought. They are written as published files are, and read like any other.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from video_llama.checkpoints.load import empty_model
from video_llama.checkpoints.plan import split
from video_llama.checkpoints.sizes import IMAGEBIND, Shapes
from video_llama.checkpoints.table import FILE_PREFIXES, Kind, to_published
from video_llama.models import VideoLlamaConfig

SPREAD = 0.02  # standard deviation of BERT's initial values
SEED = 0


def write_new_branch(
    path: Path,
    kind: Kind,
    shapes: Shapes,
    text_config: PreTrainedConfig,
    overrides: Mapping[str, Any],
    *,
    projected: bool = False,
) -> None:
    """Write a new branch as a published file.

    Args:
        path: of the file.
        kind: "video_branch" or "audio_branch".
        shapes: of the parts that are there, by our names.
        text_config: of the language model.
        overrides: settings by dotted names.
        projected: the projector is in a file of its own.
    """
    tensors = {}
    for name, empty in empty_model(_config(shapes, text_config, overrides)).state_dict().items():
        entries = [entry for entry in to_published(name) if entry.kind == kind]
        if not entries or (projected and name.startswith("vision_branch.projector.")):
            continue
        tensor = initial(name, tuple(empty.shape))
        for entry in entries:
            key = entry.name.removeprefix(FILE_PREFIXES[kind])
            tensors[key] = split(tensor, entry.part).contiguous()
    save_file(tensors, path)


def initial(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The initial values of a tensor, float32, the same every time."""
    digest = hashlib.sha256(f"{SEED} {name}".encode()).digest()
    chance = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    last = name.rpartition(".")[2]
    if "projector" in name:
        bound = 1 / math.sqrt(shape[-1]) if last == "weight" else 0.0
        return (torch.rand(shape, generator=chance) * 2 - 1) * bound
    if len(shape) == 1:
        return torch.ones(shape) if last == "weight" else torch.zeros(shape)
    spread = 1.0 if "position_embedding" in name else SPREAD
    return torch.randn(shape, generator=chance) * spread


def _config(
    shapes: Shapes, text_config: PreTrainedConfig, overrides: Mapping[str, Any]
) -> VideoLlamaConfig:
    """A model whose branches are as wanted; of its other parts only the widths are right."""
    hears = f"{IMAGEBIND}.audio.head_projection.weight" in shapes
    fields: dict[str, Any] = {
        "qformer_config": {"hidden_size": shapes["vision_branch.qformer.layernorm.weight"][0]},
        "text_config": text_config,
        "has_audio_branch": hears,
    }
    if hears:
        width = shapes[f"{IMAGEBIND}.audio.head_projection.weight"][0]
        fields["imagebind_config"] = {"embedding_size": width}
    for name, value in overrides.items():
        section, _, field = name.rpartition(".")
        if section in ("video_qformer_config", "audio_qformer_config"):
            fields.setdefault(section, {})[field] = value
        elif not section:
            fields[name] = value
    return VideoLlamaConfig(**fields)

"""From published files to a plan: which tensor of which file becomes which of ours.

Every key is used, listed as droppable, or an error that names it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from video_llama.checkpoints.load import empty_model
from video_llama.checkpoints.readers import TensorFile, TensorInfo, open_tensors
from video_llama.checkpoints.sizes import POSITION_TABLE, VISION, Shapes, grid_side
from video_llama.checkpoints.sources import PublishedFiles, language_model_files
from video_llama.checkpoints.table import (
    FILE_PREFIXES,
    LOAD_ORDER,
    Kind,
    Part,
    droppable,
    to_ours,
    to_published,
)
from video_llama.errors import CheckpointError
from video_llama.models import VideoLlamaConfig

_BLOCK = re.compile(rf"{re.escape(VISION)}\.encoder\.layers\.(\d+)\.")
_FINAL_NORM = "language_model.model.norm.weight"
_THIRDS: dict[Part, int] = {"query": 0, "value": 2}


@dataclass(frozen=True)
class Piece:
    """A published tensor, by its file and its key there."""

    file: Path
    key: str
    info: TensorInfo


@dataclass(frozen=True)
class Dropped:
    """A key that is not used, and why."""

    file: str
    key: str
    why: str


@dataclass
class Plan:
    """Our key -> the pieces that make it up."""

    pieces: dict[str, dict[Part, Piece]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    extras: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def shapes(self) -> Shapes:
        """Our key -> shape, as the files have it."""
        return Shapes({name: _shape(parts) for name, parts in self.pieces.items()})

    @property
    def whole_vision_tower(self) -> bool:
        """The vision file ends in a norm of its own, so its last block may be one too many."""
        return any(entry.why.startswith("EVA's own final norm") for entry in self.dropped)

    def infos(self, dtype: torch.dtype | None, config: VideoLlamaConfig) -> dict[str, TensorInfo]:
        """Our key -> what is written, in the order of the files; `dtype` None keeps each one's."""
        infos = {}
        for name, parts in self.pieces.items():
            first = next(iter(parts.values())).info
            shape = _shape(parts)
            if name == POSITION_TABLE:
                side = config.vision_config.image_size // config.vision_config.patch_size
                shape = (1, side * side + 1, shape[2])
            infos[name] = TensorInfo(shape, dtype or first.dtype)
        files = {path: n for n, path in enumerate(self.extras)}

        def place(name: str) -> tuple[int, int]:
            piece = next(iter(self.pieces[name].values()))
            return files[piece.file], -infos[name].dtype.itemsize

        return {name: infos[name] for name in sorted(infos, key=place)}


def make_plan(files: PublishedFiles, audio: bool = True) -> Plan:
    """Read the keys of all files in the original's order; a later file replaces an earlier one.

    Raises CheckpointError for keys that the table does not have, by name.
    """
    plan = Plan()
    for kind in LOAD_ORDER:
        path: Path | None = getattr(files, kind)
        if path is None:
            continue
        for file in language_model_files(path) if kind == "language_model" else [path]:
            if file not in plan.extras:  # one file may be both branches
                tensors = open_tensors(file)
                plan.extras[file] = tensors.extras
                _add(plan, kind, tensors, audio)
    return plan


def drop_unused_blocks(plan: Plan, depth: int) -> None:
    """Take the vision blocks beyond those the model uses out of the plan."""
    for name in list(plan.pieces):
        match = _BLOCK.match(name)
        if match and int(match.group(1)) >= depth:
            for piece in plan.pieces.pop(name).values():
                why = f"a block beyond the {depth} that are used"
                plan.dropped.append(Dropped(piece.file.name, piece.key, why))


def require_fit(plan: Plan, config: VideoLlamaConfig) -> None:
    """Every tensor of the model is there, in its shape, and no other."""
    model = empty_model(config)
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = plan.shapes
    _require_none(
        (piece for name in shapes if name not in expected for piece in plan.pieces[name].values()),
        "has no place in this model",
    )
    for name, shape in expected.items():
        if name not in shapes:
            if name not in tied:
                shapes[name]  # raises, and names the published key
            continue
        _require_whole(name, plan.pieces[name])
        if shapes[name] != shape and name != POSITION_TABLE:
            piece = next(iter(plan.pieces[name].values()))
            raise CheckpointError(
                f"'{piece.key}' of {piece.file.name} has shape {list(shapes[name])}; the other "
                f"files and settings ask for {list(shape)}"
            )
    for name in tied & set(plan.pieces):
        for piece in plan.pieces.pop(name).values():
            plan.dropped.append(Dropped(piece.file.name, piece.key, "tied to the embedding table"))


def final_norm(plan: Plan) -> torch.Tensor | None:
    """The scale of the language model's last norm; None for one that calls it otherwise."""
    parts = plan.pieces.get(_FINAL_NORM)
    if parts is None:
        return None
    return open_tensors(parts["whole"].file).read(parts["whole"].key)


def tensor_reader(plan: Plan, infos: Mapping[str, TensorInfo]) -> Callable[[str], torch.Tensor]:
    """A function that gives our tensors as they are to be written, one file open at a time."""
    opened: list[TensorFile] = []

    def read_piece(piece: Piece) -> torch.Tensor:
        if not opened or opened[0].path != piece.file:
            opened.clear()  # drop the last mapping before the next one
            opened.append(open_tensors(piece.file))
        return opened[0].read(piece.key)

    def read(name: str) -> torch.Tensor:
        parts = plan.pieces[name]
        if "whole" in parts:
            tensor = read_piece(parts["whole"])
        else:
            query, value = read_piece(parts["query"]), read_piece(parts["value"])
            tensor = torch.cat([query, torch.zeros_like(query), value])
        if name == POSITION_TABLE:
            tensor = resize_position_table(tensor, grid_side(infos[name].shape))
        return tensor.to(infos[name].dtype)

    return read


def resize_position_table(table: torch.Tensor, side: int) -> torch.Tensor:
    """A position table (1, n * n + 1, D) for a grid of another side (1, side * side + 1, D).

    Bicubic, as in the original; the row of the cls token stays as it is.
    """
    old = grid_side(tuple(table.shape))
    if old == side:
        return table
    cls, grid = table[:, :1], table[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    resized = F.interpolate(grid.float(), (side, side), mode="bicubic", align_corners=False)
    return torch.cat([cls, resized.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def split(tensor: torch.Tensor, part: Part) -> torch.Tensor:
    """The published piece of one of our tensors."""
    return tensor if part == "whole" else tensor.chunk(3)[_THIRDS[part]]


def _add(plan: Plan, kind: Kind, file: TensorFile, audio: bool) -> None:
    unknown = []
    for key, info in file.tensors.items():
        full = FILE_PREFIXES[kind] + key
        why = droppable(full)
        target = None if why else to_ours(full)
        piece = Piece(file.path, key, info)
        if target is not None and target.name.startswith("audio_branch.") and not audio:
            why = "the model is converted without its audio branch"
        if why is not None:
            plan.dropped.append(Dropped(file.path.name, key, why))
        elif target is None:
            unknown.append(piece)
        else:
            parts = plan.pieces.setdefault(target.name, {})
            if target.part in parts:
                old = parts[target.part]
                why = f"{file.path.name} has it too and is read later"
                plan.dropped.append(Dropped(old.file.name, old.key, why))
            parts[target.part] = piece
    _require_none(unknown, "is not known")


def _require_none(pieces: Iterable[Piece], what: str) -> None:
    found = list(pieces)
    if found:
        more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
        raise CheckpointError(
            f"'{found[0].key}' of {found[0].file.name} {what}{more}; nothing is left out that is "
            "not listed as droppable. Is this the file of another model?"
        )


def _require_whole(name: str, parts: Mapping[Part, Piece]) -> None:
    wanted = {entry.part: entry.name for entry in to_published(name)}
    for part, key in wanted.items():
        if part not in parts:
            raise CheckpointError(f"'{key}' is in none of the given files; one is incomplete")


def _shape(parts: Mapping[Part, Piece]) -> tuple[int, ...]:
    shape = next(iter(parts.values())).info.shape
    return shape if "whole" in parts else (3 * shape[0],)

"""What was trained of a model, kept without the rest of it.

    DIR/part.json            the model it belongs to, and the scale of adapters
    DIR/trained.safetensors  tensors by the names of the model; "LAYER.lora_A", "LAYER.lora_B"
    DIR/config.json ...      configuration, processor and tokenizer, as in any model's directory

Such a directory is loaded like any other: the model it belongs to, with these tensors put in.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from video_llama.checkpoints.readers import read_header
from video_llama.checkpoints.writer import model_files
from video_llama.errors import CheckpointError

PART_FILE = "part.json"
TRAINED_FILE = "trained.safetensors"
LORA_A, LORA_B = ".lora_A", ".lora_B"
# What is looked at of a tensor to tell models apart: training changes every part of what it trains.
PIECES, PIECE_BYTES = 9, 8 << 10


@dataclass(frozen=True)
class Part:
    """What `part.json` says.

    Attributes:
        base: the model it belongs to, as it is loaded; a directory relative to the part's.
        fingerprint: of that model's weights; see `fingerprint`.
        lora_scale: of the product of two adapter matrices.
    """

    base: str
    fingerprint: str
    lora_scale: float = 1.0

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n"


def read_part(directory: Path) -> Part | None:
    """What a directory says of the model it is a part of; None for a whole model.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = directory / PART_FILE
    if not path.is_file():
        return None
    try:
        return Part(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{directory.name}/{PART_FILE} cannot be read: {error}") from error


def base_of(directory: Path, part: Part) -> str:
    """The model a part belongs to, as `resolve` takes it."""
    beside = directory.resolve() / part.base
    # One that leads upwards is never meant from where a process happens to be.
    return str(beside) if beside.is_dir() or part.base.startswith("..") else part.base


def fingerprint(directory: Path) -> str:
    """What tells a model's weights from others': a hash of pieces of every tensor.

    Of a part: of its tensors and of the fingerprint of its model.

    Raises:
        CheckpointError: there are no weights, or they cannot be read.
    """
    digest = hashlib.sha256()
    part = read_part(directory)
    if part is None:
        paths = sorted(set(model_files(directory).values()))
    else:
        paths = [directory / TRAINED_FILE]
        digest.update(f"{part.fingerprint} {part.lora_scale}\n".encode())
    for path in paths:
        digest.update(f"{path.name}\n".encode())
        for piece in _pieces(path):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    """The header of a safetensors file, then evenly spaced bytes of each tensor."""
    read_header(path)  # refuses a damaged one
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        yield header
        for name, entry in json.loads(header).items():
            if name == "__metadata__":
                continue
            start, end = (len(length) + len(header) + at for at in entry["data_offsets"])
            if end - start <= PIECES * PIECE_BYTES:
                places, size = [start], end - start
            else:
                size = PIECE_BYTES
                places = [start + (end - start - size) * n // (PIECES - 1) for n in range(PIECES)]
            for place in places:
                file.seek(place)
                yield file.read(size)


def require_base(directory: Path, part: Part, base: Path) -> None:
    """Raise CheckpointError where a part's model is not the one it was trained with."""
    # There is none in parts of parts of before.
    if part.fingerprint and fingerprint(base) != part.fingerprint:
        raise CheckpointError(
            f"{directory.name} was trained on other weights than {base.name} has now; "
            "give back the model it belongs to"
        )


def read_trained(directory: Path) -> dict[str, torch.Tensor]:
    """The trained tensors of a part.

    Raises:
        CheckpointError: they cannot be read.
    """
    try:
        return load_file(directory / TRAINED_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{directory.name}/{TRAINED_FILE} cannot be read: {error}") from error


def adapted(tensors: Iterable[str]) -> set[str]:
    """The weights that adapters among trained tensors are added to."""
    return {f"{name.removesuffix(LORA_A)}.weight" for name in tensors if name.endswith(LORA_A)}


@torch.no_grad()
def put_in(model: nn.Module, tensors: Mapping[str, torch.Tensor], lora_scale: float) -> None:
    """Trained tensors into the model they belong to; adapters are added to their weights.

    Raises:
        CheckpointError: a tensor the model has no place for.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name.endswith(LORA_B) and f"{name.removesuffix(LORA_B)}{LORA_A}" in tensors:
            continue
        target = parameters.get(f"{name.removesuffix(LORA_A)}.weight" if LORA_A in name else name)
        if name.endswith(LORA_A):
            second = tensors.get(f"{name.removesuffix(LORA_A)}{LORA_B}")
            tensor = None if second is None else second.float() @ tensor.float() * lora_scale
        if target is None or tensor is None or target.shape != tensor.shape:
            raise CheckpointError(
                f"the trained part does not fit its model: there is no place for '{name}'; "
                "it belongs to another model"
            )
        if name.endswith(LORA_A):
            target.copy_(target.float() + tensor.to(target.device))
        else:
            target.copy_(tensor)

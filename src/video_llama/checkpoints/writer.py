"""Safetensors files written one tensor at a time, so that a model never has to be in memory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from video_llama.checkpoints.readers import DTYPE_NAMES, TensorInfo, read_header
from video_llama.errors import CheckpointError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_SHARD_BYTES = 4 * 2**30


def split_into_shards(
    infos: Mapping[str, TensorInfo], max_bytes: int = MAX_SHARD_BYTES
) -> list[list[str]]:
    """Consecutive tensors up to `max_bytes` each (a larger tensor alone).

    A shard holds one item size, which keeps every tensor aligned in the file.
    """
    shards: list[list[str]] = []
    names: list[str] = []
    size = 0
    for name, info in infos.items():
        another_kind = bool(names) and infos[names[0]].dtype.itemsize != info.dtype.itemsize
        if names and (another_kind or size + info.num_bytes > max_bytes):
            shards.append(names)
            names, size = [], 0
        names.append(name)
        size += info.num_bytes
    if names:
        shards.append(names)
    return shards


def write_model(
    directory: Path,
    infos: Mapping[str, TensorInfo],
    read: Callable[[str], torch.Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `model.safetensors`, or shards with their index, into a directory.

    `infos` says shape and type as written; `read` gives a tensor of that shape and type.
    """
    shards = split_into_shards(infos, max_shard_bytes)
    names = [SINGLE_NAME]
    if len(shards) > 1:
        total = len(shards)
        names = [f"model-{n:05d}-of-{total:05d}.safetensors" for n in range(1, total + 1)]
        index = {
            "metadata": {"total_size": sum(info.num_bytes for info in infos.values())},
            "weight_map": {
                tensor: file for file, shard in zip(names, shards, strict=True) for tensor in shard
            },
        }
        (directory / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for file, shard in zip(names, shards, strict=True):
        _write_shard(directory / file, {name: infos[name] for name in shard}, read)


def model_files(directory: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it, for a directory with or without an index.

    Raises CheckpointError when there are no weights or the index is of another form.
    """
    index = directory / INDEX_NAME
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: directory / file for name, file in weight_map.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{INDEX_NAME} of {directory.name} cannot be read") from error
    single = directory / SINGLE_NAME
    return dict.fromkeys(read_header(single), single)


def _write_shard(
    path: Path, infos: Mapping[str, TensorInfo], read: Callable[[str], torch.Tensor]
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, info in infos.items():
        header[name] = {
            "dtype": DTYPE_NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, offset + info.num_bytes],
        }
        offset += info.num_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # data begins at a multiple of eight
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name, info in infos.items():
            tensor = read(name)
            assert tuple(tensor.shape) == info.shape, name
            assert tensor.dtype == info.dtype, name
            file.write(_raw(tensor))


def _raw(tensor: torch.Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data

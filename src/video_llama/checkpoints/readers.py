"""Files of tensors, read one tensor at a time.

A file is mapped, never loaded whole, and a pickle is opened with `weights_only=True` only.
"""

import json
import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from video_llama.checkpoints.table import TRAINER_STATES
from video_llama.errors import CheckpointError

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# How torch says that a pickle wants more than tensors.
_RUNS_CODE = re.compile(r"Unsupported (global|class)|unsupported GLOBAL|unrecognized function")
_MAX_HEADER = 100 * 2**20  # bytes; the limit of the safetensors format


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Its size on disk."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorFile(ABC):
    """An open file of tensors. `extras` is what a trainer saved beside them."""

    def __init__(
        self, path: Path, tensors: Mapping[str, TensorInfo], extras: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.tensors = tensors
        self.extras = extras

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """One tensor; its pages are read when they are touched."""


class _TorchFile(TensorFile):
    def __init__(self, path: Path) -> None:
        content = _load_pickle(path)
        extras: dict[str, Any] = {}
        if isinstance(content.get("model"), dict):
            extras = {name: value for name, value in content.items() if name != "model"}
            unknown = sorted(set(extras) - set(TRAINER_STATES))
            if unknown:
                raise CheckpointError(
                    f"{path.name} holds {_listed(unknown)} beside 'model'; known are "
                    f"{_listed(TRAINER_STATES)}"
                )
            content = content["model"]
        for name, value in content.items():
            if not isinstance(value, torch.Tensor):
                raise CheckpointError(
                    f"{path.name} is not a file of weights: '{name}' is of type "
                    f"{type(value).__name__}, not a tensor"
                )
        infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in content.items()}
        super().__init__(path, infos, extras)
        self._content = content

    def read(self, name: str) -> torch.Tensor:
        return self._content[name].detach()


class _SafetensorsFile(TensorFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path, read_header(path), {})
        try:
            self._file = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise _damaged(path) from error

    def read(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)


def open_tensors(path: Path) -> TensorFile:
    """Open a `.pth`, `.pt`, `.bin` or `.safetensors` file.

    The file stays mapped while what is returned, or a tensor read from it, is alive.
    Raises CheckpointError for what is not such a file, is damaged, or would run code.
    """
    _require_weights(path)
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _TorchFile(path)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names, shapes and types in a safetensors file, from its first bytes.

    Raises CheckpointError when the header cannot be read or the file is shorter than it says.
    """
    _require_weights(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= _MAX_HEADER:
            raise _damaged(path)
        raw = file.read(size)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        infos = {
            name: TensorInfo(tuple(entry["shape"]), _DTYPES[entry["dtype"]])
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    if path.stat().st_size != 8 + size + end:
        raise _damaged(path)
    return infos


def _load_pickle(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        # Files of torch before 1.6 are no zip archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if _RUNS_CODE.search(str(error)):
            raise CheckpointError(
                f"{path.name} holds more than tensors, and reading it would run code from the "
                "file; it is refused. Save its state dict alone and give that"
            ) from error
        raise _damaged(path) from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, OSError) as error:
        raise _damaged(path) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path.name} is not a file of weights: it holds a {type(content).__name__}, "
            "a dictionary of tensors is wanted"
        )
    return content


def _require_weights(path: Path) -> None:
    """Refuse what is taken for weights most often: pages and pointers saved in their place."""
    if not path.is_file():
        raise CheckpointError(f"no such file: {path}")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be opened: {error.strerror}") from error
    if not start:
        raise CheckpointError(f"{path.name} is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path.name} is a Git LFS pointer, not the weights; run 'git lfs pull' where it lies, "
            "or download the file itself"
        )
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        raise CheckpointError(f"{path.name} is a web page, not weights; download the file itself")


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.name} cannot be read: it is cut short or damaged, or not a file of weights; "
        "compare its size with the published one and download it again"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)

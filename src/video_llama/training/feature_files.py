"""The files of a cache of features: shards of values, and lists of what is known of media files.

Each is written whole, under a name of its own, and never changed.

Shape: N entries of a list.
"""

import hashlib
import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from video_llama.data.medium import Medium
from video_llama.errors import TrainingError
from video_llama.training.atomic import other_name, writing
from video_llama.whole_file import whole_file


@dataclass(frozen=True)
class Entry:
    """One value of a cache.

    Attributes:
        key: which; see `value_key`.
        medium: kind and times, and the encoder states (T, Q, D) or (T, E).
    """

    key: str
    medium: Medium


class Shard:
    """One file of values. `entries` says kind, times and checksum by key.

    Raises:
        TrainingError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
            self.entries: dict[str, dict[str, Any]] = json.loads(
                (self._file.metadata() or {})["entries"]
            )
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise TrainingError(f"{path.name} of the cache is damaged: {error}") from None

    def read(self, key: str) -> Medium:
        """One value, its checksum compared.

        Raises:
            TrainingError: it has changed since it was written.
        """
        entry = self.entries.get(key)
        try:
            values = None if entry is None else self._file.get_tensor(key)
        except SafetensorError:
            values = None
        if entry is None or values is None or _checksum(values) != entry["crc"]:
            raise TrainingError(
                f"{self.path.name} of the cache is damaged: a value has changed since it was "
                "written; start again with cache.verify=true, and it is computed again"
            )
        return Medium(entry["kind"], values, tuple(entry["times"]))

    def verify(self) -> None:
        """Read everything and compare.

        Raises:
            TrainingError: a value has changed.
        """
        for key in self.entries:
            self.read(key)


def write_shard(folder: Path, entries: Sequence[Entry]) -> Path:
    """Write values as a shard of a name of its own.

    Raises:
        TrainingError: it could not be written; nothing of it stays.
    """
    path = folder / f"shard-{uuid.uuid4().hex[:12]}.safetensors"
    described = {
        entry.key: {
            "kind": entry.medium.kind,
            "times": list(entry.medium.times),
            "crc": _checksum(entry.medium.values),
        }
        for entry in entries
    }
    tensors = {entry.key: entry.medium.values.contiguous() for entry in entries}
    kept = "what was written before is used again"
    with writing("the cache", kept), whole_file(path, other_name(path)) as other:
        save_file(tensors, other, metadata={"entries": json.dumps(described)})
    return path


class SourceTable:
    """Digests of files that were read before, so that they need not be read to be known again.

    A file is known by its path, size and time of change.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        items = sorted((name_number(name), digest) for name, digest in (known or {}).items())
        self._names = np.array([number for number, _ in items], dtype=np.uint64)  # (N)
        self._digests = np.array([digest for _, digest in items], dtype="S64")  # (N)

    @classmethod
    def read(cls, folder: Path) -> "SourceTable":
        """All lists of a cache. One that is damaged is left out: it only saves time."""
        known: dict[str, str] = {}
        for path in sorted(folder.glob("sources-*.json")):
            try:
                known |= json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, TypeError):
                path.unlink(missing_ok=True)
        return cls(known)

    def find(self, path: Path) -> str | None:
        """The digest of a file as it is now, if it is known."""
        number = np.uint64(name_number(file_state(path)))
        at = int(np.searchsorted(self._names, number))
        if at < len(self._names) and self._names[at] == number:
            return self._digests[at].decode()
        return None


def file_state(path: Path) -> str:
    """What says that a file is the same as before, without reading it."""
    try:
        status = path.stat()
    except OSError:
        return f"{path} is not there"
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def name_number(text: str) -> int:
    """The beginning of a hash as a number; 64 bits tell some hundred million names apart."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _checksum(values: torch.Tensor) -> int:
    return zlib.crc32(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)

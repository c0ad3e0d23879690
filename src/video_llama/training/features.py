"""What frozen encoders make of media, computed once and read back in every epoch and every run.

    CACHE/VISION-1f0c.../settings.json          what the values depend on, for people
    CACHE/VISION-1f0c.../shard-XXXX.safetensors values, with a checksum of each
    CACHE/VISION-1f0c.../sources-XXXX.json      digests of files by path, size and time of change

The folder's name is a hash of the encoders' weights and of how media are prepared for them; a value
is kept under the sha256 of the medium's content and what was taken of it. Files are written whole,
under names of their own, so any number of processes can add to a cache at once.

Legend: T frames or clips, Q queries, D and E widths; N values of a cache.
"""

import dataclasses
import hashlib
import json
import random
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from video_llama.data.medium import Medium, MediumRequest
from video_llama.data.sample import Source
from video_llama.errors import (
    CorruptMediaError,
    ForbiddenSourceError,
    MediaError,
    MediaLimitError,
    MediaNotFoundError,
    TrainingError,
    UnsupportedMediaError,
)
from video_llama.training.atomic import HALF_WRITTEN, sync, writing

SHARD_BYTES = 128 << 20
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPEN_SHARDS = 64  # per process
SETTINGS, DAMAGED = "settings.json", ".damaged"
# What a medium that could not be encoded is told as, by name: it is remembered as text.
FAILURES = {
    one.__name__: one
    for one in (
        CorruptMediaError,
        ForbiddenSourceError,
        MediaLimitError,
        MediaNotFoundError,
        UnsupportedMediaError,
    )
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One value of a cache.

    Attributes:
        key: which; see `value_key`.
        medium: kind and times, and the encoder states (T, Q, D) or (T, E).
    """

    key: str
    medium: Medium


class FeatureStore:
    """The values of one kind of encoder in a cache; can be sent to worker processes.

    Args:
        folder: of the cache; its subfolder for these encoders is made.
        kind: "vision", "audio", ...: the beginning of the subfolder's name.
        settings: everything the values depend on.
        draws: different choices of frames of a medium, with "head_tail" sampling.
    """

    def __init__(self, folder: Path, kind: str, settings: Mapping[str, Any], draws: int) -> None:
        text = json.dumps(settings, sort_keys=True, indent=1)
        self.folder = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.draws = draws
        self.failures: dict[str, tuple[str, str]] = {}  # by value key or path: error and message
        self._shards: list[str] = []
        self._keys = np.empty(0, dtype=np.uint64)  # (N) sorted: beginnings of hashes of keys
        self._places = np.empty(0, dtype=np.int32)  # (N) the shard of each
        self._sources = SourceTable()
        self._open: dict[int, Shard] = {}
        with writing(f"the cache {folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / SETTINGS).exists():
                (self.folder / SETTINGS).write_text(text + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def refresh(self, *, verify: bool = False) -> list[str]:
        """Read which values and digests are there; returns what is wrong with damaged shards.

        Those are set aside under another name, and their values are missing then.
        """
        self._shards, self._open = [], {}
        told, keys, places = [], [], []
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            try:
                shard = Shard(path)
                if verify:
                    shard.verify()
            except TrainingError as error:
                told.append(f"{error}; its values are computed again")
                # Another process may have found it first.
                if path.exists():
                    path.replace(path.with_name(path.name + DAMAGED))
                continue
            keys += [_number(key) for key in shard.entries]
            places += [len(self._shards)] * len(shard.entries)
            self._shards.append(path.name)
        order = np.argsort(np.array(keys, dtype=np.uint64), kind="stable")
        self._keys = np.array(keys, dtype=np.uint64)[order]
        self._places = np.array(places, dtype=np.int32)[order]
        self._sources = SourceTable.read(self.folder)
        return told

    def look_up(self, request: MediumRequest) -> Medium:
        """The encoder states of a medium, as `data.medium.EncodedMedia` has it.

        Raises:
            MediaError: the medium could not be read when it was to be encoded.
            TrainingError: the value is not in the cache, or damaged.
        """
        failure = self.failures.get(failure_key(request.source))
        if failure is not None:
            raise FAILURES.get(failure[0], MediaError)(failure[1])
        key = self.key(request)
        place = self._find(key)
        if place is None:
            raise TrainingError(
                f"{_name(request.source)} is not in the cache {self.folder}, or has changed since "
                "it was encoded; start again, and it is encoded"
            )
        return self._shard(place).read(key)

    def key(self, request: MediumRequest) -> str:
        """The name of the value of a request."""
        digest = self.known_digest(request.source) or digest_of(request.source)
        return value_key(digest, self.settled(request))

    def settled(self, request: MediumRequest) -> MediumRequest:
        """The request of which the value is kept: one of so many draws, instead of any."""
        drawn = request.side == "frames" and request.sampling == "head_tail"
        return dataclasses.replace(request, chance=request.chance % self.draws if drawn else 0)

    def known_digest(self, source: Source) -> str | None:
        """The digest of a medium; None for a file that would have to be read for it."""
        return self._sources.find(source) if isinstance(source, Path) else digest_of(source)

    def _find(self, key: str) -> int | None:
        number = np.uint64(_number(key))
        at = int(np.searchsorted(self._keys, number))
        return int(self._places[at]) if at < len(self) and self._keys[at] == number else None

    def _shard(self, place: int) -> "Shard":
        shard = self._open.pop(place, None)
        if shard is None:
            shard = Shard(self.folder / self._shards[place])
            if len(self._open) >= OPEN_SHARDS:
                self._open.pop(next(iter(self._open)))  # the one not used for longest
        self._open[place] = shard
        return shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # files are opened where they are read


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
    name = f"shard-{uuid.uuid4().hex[:12]}.safetensors"
    other, path = folder / f"{HALF_WRITTEN}{name}", folder / name
    described = {
        entry.key: {
            "kind": entry.medium.kind,
            "times": list(entry.medium.times),
            "crc": _checksum(entry.medium.values),
        }
        for entry in entries
    }
    tensors = {entry.key: entry.medium.values.contiguous() for entry in entries}
    with writing("the cache", "what was written before is used again"):
        try:
            save_file(tensors, other, metadata={"entries": json.dumps(described)})
            sync(other)
            other.replace(path)
        except BaseException:
            other.unlink(missing_ok=True)
            raise
        sync(folder)
    return path


class SourceTable:
    """Digests of files that were read before, so that they need not be read to be known again.

    A file is known by its path, size and time of change.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        items = sorted((_number(name), digest) for name, digest in (known or {}).items())
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
        number = np.uint64(_number(file_state(path)))
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


def digest_of(source: Source) -> str:
    """The sha256 of a medium's content; of its name, where there is no file."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, Path) and source.is_file():
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(str(source).encode()).hexdigest()


def failure_key(source: Source) -> str:
    """What a medium that cannot be read is remembered by."""
    return str(source) if isinstance(source, Path) else digest_of(source)


def value_key(digest: str, request: MediumRequest) -> str:
    """The name of a value: the medium's digest and what is taken of it."""
    if request.side == "sound":
        return f"{digest}/sound"
    return f"{digest}/{request.num_frames}-{request.sampling}-{request.chance}"


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of names, types and values of weights."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def request_seed(request: MediumRequest) -> MediumRequest:
    """A settled request as the reader takes it: the draw's number as its chance."""
    chance = random.Random(f"draw {request.chance}").getrandbits(63)
    return dataclasses.replace(request, chance=chance)


def _number(text: str) -> int:
    """The beginning of a hash as a number; 64 bits tell some hundred million names apart."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _checksum(values: torch.Tensor) -> int:
    return zlib.crc32(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _name(source: Source) -> str:
    return source.name if isinstance(source, Path) else "a medium given as bytes"

"""What frozen encoders make of media, computed once and read back in every epoch and every run.

    CACHE/vision-1f0c.../settings.json          what the values depend on, for people
    CACHE/vision-1f0c.../shard-XXXX.safetensors values, with a checksum of each
    CACHE/vision-1f0c.../sources-XXXX.json      digests of files by path, size and time of change

The folder's name is a hash of the encoders' weights and of how media are prepared for them; a value
is kept under the sha256 of the medium's content and what was taken of it. Files are written whole,
under names of their own, so any number of processes can add to a cache at once.

Legend: T frames or clips, Q queries, D and E widths; N values of a cache.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from video_llama.training.atomic import remove_half_written, writing
from video_llama.training.feature_files import Shard, SourceTable, name_number

SHARD_BYTES = 128 << 20
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPEN_SHARDS = 64  # per process
SETTINGS, DAMAGED = "settings.json", ".damaged"
ABANDONED = 86_400.0  # seconds after which what is half written belongs to nobody
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
        if verify:
            remove_half_written(self.folder, older_than=ABANDONED)
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
            keys += [name_number(key) for key in shard.entries]
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
        number = np.uint64(name_number(key))
        at = int(np.searchsorted(self._keys, number))
        return int(self._places[at]) if at < len(self) and self._keys[at] == number else None

    def _shard(self, place: int) -> Shard:
        shard = self._open.pop(place, None)
        if shard is None:
            shard = Shard(self.folder / self._shards[place])
            if len(self._open) >= OPEN_SHARDS:
                self._open.pop(next(iter(self._open)))  # the one not used for longest
        self._open[place] = shard
        return shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # files are opened where they are read


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


def _name(source: Source) -> str:
    return source.name if isinstance(source, Path) else "a medium given as bytes"

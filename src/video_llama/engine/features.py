"""What the encoders made of media, kept: in memory up to a size, and in a folder if there is one.

A key says everything the features depend on: content, settings, weights. Whoever asks for something
that is just being made waits for it instead of making it again.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

MEMORY_BYTES = 256 << 20
DISK_BYTES = 4 << 30
ABANDONED = 3600  # seconds after which nobody is still writing a file


@dataclass(frozen=True)
class Features:
    """What is kept of one medium.

    Attributes:
        tensors: by name.
        facts: what else is known; plain values that JSON can hold.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class _Interrupted(Exception):  # noqa: N818 (it is nobody's fault)
    """Whoever made the features was interrupted."""


class FeatureCache:
    """Features by key; those used last stay. May be used by several threads.

    Args:
        memory_bytes: in memory at most.
        files: a folder of them, too. Tensors that come from there are on the CPU.

    Attributes:
        hits, misses: how often something was there, or being made; and was not.
    """

    def __init__(
        self,
        memory_bytes: int = MEMORY_BYTES,
        files: "FeatureFiles | None" = None,
    ) -> None:
        self.memory_bytes = memory_bytes
        self.hits = 0
        self.misses = 0
        self.nbytes = 0
        self._files = files
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._being_made: dict[str, Future[Features]] = {}

    def get(self, key: str, make: Callable[[], Features]) -> Features:
        """The features of a key; `make` makes them where there are none.

        What `make` raises is raised for everyone who waits, and nothing is kept. Who waits for one
        that was interrupted makes them instead.
        """
        while True:
            with self._lock:
                if key in self._kept:
                    self.hits += 1
                    self._kept.move_to_end(key)
                    return self._kept[key]
                made: Future[Features] = Future()
                coming = self._being_made.setdefault(key, made)
            if coming is made:
                return self._make(key, make, made)
            with contextlib.suppress(_Interrupted):
                features = coming.result()
                with self._lock:
                    self.hits += 1
                return features

    def _make(self, key: str, make: Callable[[], Features], made: Future[Features]) -> Features:
        """Make them, for all who wait for `made`."""
        try:
            features = self._find_or_make(key, make)
        except BaseException as error:
            with self._lock:
                del self._being_made[key]
            made.set_exception(error if isinstance(error, Exception) else _Interrupted())
            raise
        with self._lock:
            del self._being_made[key]
            self._keep(key, features)
        made.set_result(features)
        return features

    def find(self, key: str) -> Features | None:
        """The features of a key if they are kept; nobody is waited for."""
        with self._lock:
            if key in self._kept:
                self.hits += 1
                self._kept.move_to_end(key)
                return self._kept[key]
        found = None if self._files is None else self._files.load(key)
        if found is not None:
            with self._lock:
                self.hits += 1
                self._keep(key, found)
        return found

    def clear(self) -> None:
        """Drop what is in memory."""
        with self._lock:
            self._kept.clear()
            self.nbytes = 0

    def _find_or_make(self, key: str, make: Callable[[], Features]) -> Features:
        found = None if self._files is None else self._files.load(key)
        with self._lock:
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
        if found is not None:
            return found
        features = make()
        if self._files is not None:
            self._files.save(key, features)
        return features

    def _keep(self, key: str, features: Features) -> None:
        if key in self._kept or features.nbytes > self.memory_bytes:
            return
        self._kept[key] = features
        self.nbytes += features.nbytes
        while self.nbytes > self.memory_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.nbytes -= dropped.nbytes


class FeatureFiles:
    """A folder of features, one file each, with a checksum; those used last stay.

    A file is whole or absent: it is written beside and renamed. One that is damaged counts as
    absent and is removed. Several processes may share the folder.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int = DISK_BYTES) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._remove_parts()

    def load(self, key: str) -> Features | None:
        """What is there, None if nothing sound is."""
        path = self._path(key)
        try:
            tensors, facts = _read_sound(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError):
            with contextlib.suppress(OSError):  # it is not ours to remove
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # nor to mark, or another process made room
            os.utime(path)
        return Features(tensors, facts)

    def save(self, key: str, features: Features) -> None:
        """Write features, and make room by removing those not used for longest.

        A folder that is full or gone costs the keeping, not the answer.
        """
        tensors = {name: one.detach().cpu().contiguous() for name, one in features.tensors.items()}
        facts = json.dumps(features.facts)
        data = save(tensors, {"facts": facts, "sha256": _checksum(tensors, facts)})
        if len(data) > self.max_bytes:
            return
        beside = self.folder / f"{uuid.uuid4().hex}.part"
        with contextlib.suppress(OSError):
            try:
                beside.write_bytes(data)
                beside.replace(self._path(key))
            finally:
                beside.unlink(missing_ok=True)
            self._make_room()

    def _path(self, key: str) -> Path:
        assert key.isalnum(), "a key is a digest"
        return self.folder / f"{key}.safetensors"

    def _remove_parts(self) -> None:
        """What processes that were killed left half written."""
        before = time.time() - ABANDONED
        for path in self.folder.glob("*.part"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def _make_room(self) -> None:
        known = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                known.append((status.st_mtime_ns, status.st_size, path))
        taken = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if taken <= self.max_bytes:
                return
            with contextlib.suppress(OSError):  # another's, which stays
                path.unlink(missing_ok=True)
                taken -= size


class Fingerprint:
    """The digest of some modules' weights; computed again only when they have changed."""

    def __init__(self, modules: Iterable[nn.Module | None]) -> None:
        self._modules = [module for module in modules if module is not None]
        self._lock = threading.Lock()
        self._known: tuple[int, str] | None = None

    def digest(self) -> str:
        """SHA-256 of names, types, shapes and values."""
        with self._lock:
            tensors = self._tensors()
            stamp = hash(tuple(map(_stamp, tensors.values())))
            if self._known is None or self._known[0] != stamp:
                self._known = stamp, digest_of_tensors(tensors)
            return self._known[1]

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, module in enumerate(self._modules)
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }


def digest_of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read_sound(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and facts of a file. Raises ValueError, KeyError and others for a damaged one."""
    with safe_open(path, framework="pt") as file:
        told = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if told["sha256"] != _checksum(tensors, told["facts"]):
        raise ValueError("the checksum is another")
    return tensors, json.loads(told["facts"])


def _checksum(tensors: dict[str, torch.Tensor], facts: str) -> str:
    return hashlib.sha256((digest_of_tensors(tensors) + facts).encode()).hexdigest()


def _stamp(tensor: torch.Tensor) -> tuple[int, int]:
    """Changes when a tensor is written to or replaced."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version

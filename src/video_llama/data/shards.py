"""WebDataset shards: tar files in which the members of one sample follow each other.

    0001.json      {"messages": ...}, {"conversations": ...}, {"caption": ...} or {"captions": ...}
    0001.jpg       its media: KEY.jpg, KEY.mp4, KEY.0.png, KEY.1.png, ...; KEY.txt is a caption too

Several media of a kind are in the order of their numbers, wherever they stand. A suffix that comes
again begins another sample.

A row's order must not depend on who reads it, so shards are read by number, not as a stream: of
each sample its shard, its offset and its number of members are kept, 16 bytes in all. `data pack`
writes that index beside a shard (SHARD.idx); without it the headers of a shard are read once.

Shapes: N samples.
"""

import glob
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from video_llama.data.jsonl import FORMS, row_sample
from video_llama.data.records import parse_json, unreadable
from video_llama.data.sample import KINDS, SUFFIX_KINDS, Sample, Source, require_mapping
from video_llama.errors import DataError
from video_llama.processing.conversation import PartKind

SHARD_SUFFIX = ".tar"
INDEX_SUFFIX = ".idx"
INDEX_TYPE = np.dtype([("offset", "<i8"), ("members", "<i4")])
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class ShardRows:
    """The samples of some shards, in their order.

    Attributes:
        name: of the data set in messages.
        shards: the tar files.
        places: of each sample (N): number of its shard, offset of its first header, its members.
    """

    name: str
    shards: tuple[Path, ...]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """One sample, its media as bytes.

        Raises:
            DataError: a bad sample, or a shard that cannot be read any more.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        key = f"{self.name}#{index}"
        shard, offset, count = self.places[index].tolist()
        path = self.shards[shard]
        try:
            members = _read_members(path, offset, count)
        except OSError as error:
            raise DataError(f"{key}: {path.name} cannot be read: {error.strerror}") from None
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{key}: {path.name} is damaged: {error}") from None
        names = {_split(name)[0] for name, _ in members}
        suffixes = {_split(name)[1] for name, _ in members}
        if len(names) != 1 or len(suffixes) != count:
            raise DataError(f"{key}: {path.name} has changed since its index was made")
        own = Members(names.pop(), {_split(name)[1]: data for name, data in members})
        # Names are unique within one shard only: every shard of a pack may begin at 000000000.
        return replace(shard_sample(key, own), identity=f"{path}/{own.key}")


@dataclass(frozen=True)
class Members:
    """The members of one sample: bytes by suffix ("jpg", "0.png", "json")."""

    key: str
    data: dict[str, bytes]

    @cached_property
    def media(self) -> dict[str, PartKind]:
        """Kind of each member that is a medium, by suffix, in the order of their numbers."""
        # A packer may have put 10.png before 2.png, or as it found them.
        suffixes = sorted(self.data, key=_number)
        kinds = {suffix: SUFFIX_KINDS.get(suffix.rsplit(".", 1)[-1]) for suffix in suffixes}
        return {suffix: kind for suffix, kind in kinds.items() if kind is not None}

    def of_kind(self, kind: PartKind) -> list[str]:
        """Suffixes of all pictures, or videos, or sounds."""
        return [suffix for suffix, found in self.media.items() if found == kind]


def open_shards(name: str, pattern: str) -> ShardRows:
    """The shards of a folder, a pattern with braces or wildcards, or one file.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    shards = shard_paths(pattern)
    parts = []
    for number, path in enumerate(shards):
        found = read_index(path)
        if found is None:
            found = scan_shard(path)
        part = np.empty(len(found), dtype=[("shard", "<i4"), *INDEX_TYPE.descr])
        part["shard"], part["offset"], part["members"] = number, found["offset"], found["members"]
        parts.append(part)
    return ShardRows(name, tuple(shards), np.concatenate(parts))


def _matching(pattern: Path) -> list[Path]:
    """Files of a pattern. Brackets in names that are there stand for themselves."""
    if pattern.is_file() or not glob.has_magic(str(pattern)):
        return [pattern]
    if pattern.parent.is_dir():
        return sorted(pattern.parent.glob(pattern.name))
    # Not `Path.glob`, which takes no absolute pattern.
    return sorted(map(Path, glob.glob(str(pattern))))  # noqa: PTH207


def shard_paths(pattern: str) -> list[Path]:
    """The tar files a pattern stands for, in order: a folder, `x-{000..012}.tar`, `x-*.tar`.

    Raises:
        DataError: none, or one that braces name and that is missing.
    """
    folder = Path(pattern)
    if folder.is_dir():
        paths = sorted(folder.glob(f"*{SHARD_SUFFIX}"))
    elif folder.is_file():
        paths = [folder]
    else:
        paths = []
        for one in expand_braces(pattern):
            paths += _matching(Path(one))
    missing = [path.name for path in paths if not path.is_file()]
    if missing or not paths:
        lacking = f"{', '.join(missing[:3])} of {len(paths)}" if missing else ""
        told = f"there is no shard {lacking}" if missing else "there is no .tar file"
        raise DataError(
            f"{pattern}: {told}; give a folder of .tar files, "
            "or a pattern such as shards/train-{000..012}.tar or shards/*.tar"
        )
    return paths


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}` to a00, a01, a02, and `{a,b}` to a, b; several of them to all combinations."""
    pieces = _BRACES.split(pattern)
    choices = [_choices(piece) if n % 2 else [piece] for n, piece in enumerate(pieces)]
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    return [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]


def scan_shard(path: Path) -> np.ndarray:
    """The index of one shard, of the type `INDEX_TYPE` (N), from its headers.

    Raises:
        DataError: it cannot be read or is no tar.
    """
    found: list[tuple[int, int]] = []
    before, suffixes = None, set[str]()
    try:
        for key, suffix, offset in _headers(path):
            # One that comes again belongs to another sample, as where tars were joined.
            if key == before and suffix not in suffixes:
                found[-1] = found[-1][0], found[-1][1] + 1
            else:
                found.append((offset, 1))
                suffixes = set()
            suffixes.add(suffix)
            before = key
    except OSError as error:
        raise unreadable(path, error) from None
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path.name} is no whole tar file: {error}") from None
    return np.array(found, dtype=INDEX_TYPE)


def read_index(path: Path) -> np.ndarray | None:
    """The index beside a shard; None where there is none or it is of another shard."""
    try:
        with path.with_name(path.name + INDEX_SUFFIX).open("rb") as file:
            header = json.loads(file.readline())
            found = np.frombuffer(file.read(), dtype=INDEX_TYPE)
    except (FileNotFoundError, ValueError):
        return None
    if header != index_header(path.stat().st_size, len(found)):
        return None
    return found


def index_header(size: int, samples: int) -> dict[str, Any]:
    """The first line of an index: what it is, bytes of its shard, and its samples."""
    return {"format": "video-llama shard index 1", "bytes": size, "samples": samples}


def shard_sample(key: str, own: Members) -> Sample:
    """The sample of some members.

    Raises:
        DataError: there is no text, or media that do not fit it.
    """
    name, members = own.key, own.data
    row = require_mapping(key, parse_json(key, members["json"])) if "json" in members else {}
    if not any(row.get(form) is not None for form in FORMS):
        if "txt" not in members:
            raise DataError(f"{key}: {name} has no text; it needs {name}.json or {name}.txt")
        row = {**row, "caption": _caption(key, members["txt"])}
    fields = _media_fields(key, row, own)
    row = {field: value for field, value in row.items() if field not in KINDS} | fields
    return row_sample(key, row, _Finder(key, own))


def _caption(key: str, text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{key}: its .txt is not text in UTF-8") from None


def _media_fields(key: str, row: dict[str, Any], members: Members) -> dict[PartKind, Any]:
    """The members a conversation or a caption is about, as a line of JSON would name them.

    A row may name them itself, by their suffix. Other names are the paths of the files that a
    shard was made from.
    """
    if row.get("messages") is not None:
        return {}
    if row.get("conversations") is not None:
        text = json.dumps(row["conversations"])
        if "<image>" in text and set(members.media.values()) == {"video"}:
            return {"video": members.of_kind("video")}
        return {kind: members.of_kind(kind) for kind in KINDS if f"<{kind}>" in text}
    named: dict[PartKind, Any] = {kind: row.get(kind) for kind in KINDS}
    named = {kind: name for kind, name in named.items() if name in list(members.media)}
    if named:
        return named
    for kind in KINDS:
        if len(found := members.of_kind(kind)) > 1:
            raise DataError(
                f"{key}: {members.key} has {len(found)} {kind} members and one caption; name the "
                f'one it is about, as "{kind}": "{found[0]}" in {members.key}.json'
            )
    return {kind: suffix for suffix, kind in members.media.items()}


class _Finder:
    """Gives the media of a sample: by suffix, or the next of its kind where none is named."""

    def __init__(self, key: str, members: Members) -> None:
        self.key = key
        self.members = members
        self.unused = {kind: iter(members.of_kind(kind)) for kind in KINDS}

    def __call__(self, kind: PartKind, name: Any) -> Source:
        members = self.members
        of_a_file = isinstance(name, str) and ("/" in name or "." in name)
        if name is None or (of_a_file and name not in members.media):
            # None, or the path of the file that the shard was made from.
            name = next(self.unused[kind], None)
            if name is None:
                raise DataError(
                    f"{self.key}: there are fewer {kind} members than the text has places for"
                )
        if name not in members.media:
            raise DataError(
                f"{self.key}: there is no medium {name!r} among its members: "
                f"{', '.join(members.data)}"
            )
        return members.data[name]


def _headers(path: Path) -> Iterator[tuple[str, str, int]]:
    """Key, suffix and header offset of each member in a tar, in order."""
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in _members(tar):
            yield *_split(member.name), member.offset
        # A damaged header ends the list as a proper end does; only the latter is zero.
        file.seek(tar.offset)  # pyrefly: ignore[missing-attribute]
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"there is no header at byte {tar.offset:,}")  # pyrefly: ignore


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of a tar that have a name and a suffix; others belong to no sample.

    `._0001.jpg`, which macOS packs beside 0001.jpg, has no name before its first dot.
    """
    for member in tar:
        tar.members.clear()  # pyrefly: ignore[missing-attribute] (it would keep them all)
        key, suffix = _split(member.name)
        if member.isfile() and suffix and key and not key.endswith("/"):
            yield member


def _read_members(path: Path, offset: int, count: int) -> list[tuple[str, bytes]]:
    """Name and bytes of `count` members of a tar, from an offset on."""
    found = []
    with path.open("rb") as file:
        file.seek(offset)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in itertools.islice(_members(tar), count):
                reader = tar.extractfile(member)
                assert reader is not None
                found.append((member.name, reader.read()))
    return found


def _number(suffix: str) -> int:
    """Of "10.png" ten; those without a number come first."""
    number, _, rest = suffix.partition(".")
    return int(number) if rest and number.isdecimal() else -1


def _split(name: str) -> tuple[str, str]:
    """Key and suffix of a member, as WebDataset has it: at the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    key, _, suffix = file.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()

"""Writes a data set as WebDataset shards.

    OUT/shard-000000.tar      members 000000017.json, 000000017.jpg of row 17, ...
    OUT/shard-000000.tar.idx  where its samples are
    OUT/skipped.jsonl         the rows that cannot be used, and why
    OUT/pack.json             what was packed, and every finished shard with its sha256

A shard is written under another name, and renamed when it is whole and on the disk. The same rows
and settings give the same bytes, so a run that was broken off goes on behind its last whole shard.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from video_llama.alone import alone
from video_llama.data.check import useless
from video_llama.data.formats import DatasetSpec, open_dataset, source_files
from video_llama.data.records import unreadable
from video_llama.data.sample import SUFFIX_KINDS, Rows, Sample, Source
from video_llama.data.shards import INDEX_SUFFIX, SHARD_SUFFIX, index_header, scan_shard
from video_llama.errors import DataError, MediaError, MediaNotFoundError
from video_llama.media.limits import Limits
from video_llama.media.source import ByteSource, SourcePolicy, open_source
from video_llama.processing.conversation import PartKind
from video_llama.whole_file import whole_file

MANIFEST = "pack.json"
SKIPPED = "skipped.jsonl"
SHARD_BYTES = 256 << 20  # a shard is closed before it grows beyond this
VERSION = 1
# Fields of a source that older manifests lack, and what they are called in messages.
_LATER_FIELDS = {"sha256": "content (sha256)", "media": "folder of media, from the file on,"}
_BLOCK_BYTES = 1 << 20  # of a source that are read at a time

# How bytes whose file name is not known begin: (offset, bytes, suffix).
_BEGINNINGS = (
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG", "png"),
    (0, b"GIF8", "gif"),
    (8, b"WEBP", "webp"),
    (8, b"WAVE", "wav"),
    (8, b"AVI ", "avi"),
    (0, b"OggS", "ogg"),
    (0, b"fLaC", "flac"),
    (0, b"ID3", "mp3"),
    (4, b"ftyp", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "mkv"),
)
_SUFFIXES: dict[PartKind, str] = {"image": "jpg", "video": "mp4", "audio": "wav"}


@dataclass(frozen=True)
class Shard:
    """A finished shard: rows [first, next) are in it or among the skipped ones.

    `skipped_bytes` is the length of the list of skipped rows when it was finished.
    """

    name: str
    first: int
    next: int
    samples: int
    bytes: int
    sha256: str
    skipped_bytes: int


@dataclass
class Manifest:
    """What `pack.json` holds.

    `source` tells the rows apart from others: their number, the sha256 of their files, where the
    media lie. `packed_before` is not saved: nothing was left to do.
    """

    source: dict[str, Any]
    shard_bytes: int
    version: int = VERSION
    complete: bool = False
    shards: list[Shard] = field(default_factory=list)
    packed_before: bool = field(default=False, init=False)

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.samples for shard in self.shards)

    def save(self, out: Path) -> None:
        """Write it, whole or not at all."""
        fields = asdict(self)
        del fields["packed_before"]
        text = json.dumps(fields, indent=1) + "\n"
        _write_whole(out / MANIFEST, lambda file: file.write(text.encode()))


def pack(
    spec: DatasetSpec,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], object] | None = None,
) -> Manifest:
    """Write a data set as shards into a folder, or go on with that.

    Rows that cannot be used, and rows whose media are missing, are listed in `skipped.jsonl`; they
    stay skipped where the folder is packed into again.

    Args:
        spec: the data set.
        out: the folder; it is made.
        shard_bytes: the size of a shard. One sample alone may be larger.
        progress: called with the number of rows done, and of all rows.

    Raises:
        DataError: the data set cannot be read, the folder holds something else, or a file cannot
            be written; what was written before stays.
    """
    rows = open_dataset(spec)
    if not len(rows):
        raise DataError(f"{rows.name} has no rows to pack; give another file")
    with contextlib.ExitStack() as stack:
        with _writing(out):
            out.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(alone(out))
            except BlockingIOError:
                raise DataError(
                    f"another process is packing into {out}; wait for it, or give another folder"
                ) from None
        return _pack(spec, rows, out, shard_bytes, progress)


def _pack(
    spec: DatasetSpec,
    rows: Rows,
    out: Path,
    shard_bytes: int,
    progress: Callable[[int, int], object] | None,
) -> Manifest:
    manifest = _begin(spec, rows, out, shard_bytes)
    if manifest.complete:
        manifest.packed_before = True
        return manifest
    start = manifest.shards[-1].next if manifest.shards else 0
    kept = manifest.shards[-1].skipped_bytes if manifest.shards else 0
    with (out / SKIPPED).open("ab") as skipped:
        skipped.truncate(kept)
        skipped.seek(0, os.SEEK_END)
        samples = _Samples(rows, start, skipped, progress)
        while samples.waiting is not None:
            name = f"shard-{len(manifest.shards):06d}{SHARD_SUFFIX}"
            manifest.shards.append(_write_shard(out / name, samples, shard_bytes))
            with _writing(out / SKIPPED):
                skipped.flush()
                os.fsync(skipped.fileno())
            manifest.save(out)
    if not manifest.shards:
        raise DataError(
            f"no row of {rows.name} can be packed; {out / SKIPPED} says why, row by row"
        )
    manifest.complete = True
    manifest.save(out)
    return manifest


class _Samples:
    """The usable rows in order, one of them waiting for its place in a shard."""

    def __init__(
        self,
        rows: Rows,
        start: int,
        skipped: BinaryIO,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self.rows = rows
        self.next = start  # the first row behind those that were taken
        self.kept = 0  # length of the list of skipped rows before it
        self.skipped = skipped
        self.progress = progress
        self._stream = self._read(start)
        self.waiting = next(self._stream, None)

    def take(self) -> list[tuple[str, bytes]]:
        """The members of the sample that waits, which is then another."""
        assert self.waiting is not None
        number, members = self.waiting
        self.next = number + 1
        self.kept = self.skipped.tell()
        self.waiting = next(self._stream, None)
        return members

    def _read(self, start: int) -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
        for number in range(start, len(self.rows)):
            if self.progress:
                self.progress(number, len(self.rows))
            try:
                sample = self.rows[number]
                faults = [fault.reason for fault in useless(sample)]
                members = [] if faults else sample_members(f"{number:09d}", sample)
            except (DataError, MediaError) as error:
                faults, members = [str(error)], []
            for reason in faults:
                line = {"row": number, "reason": reason}
                self.skipped.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            if not faults:
                yield number, members
        if self.progress:
            self.progress(len(self.rows), len(self.rows))


def sample_members(name: str, sample: Sample) -> list[tuple[str, bytes]]:
    """Names and bytes of the members of a sample; `name` is their key.

    Raises:
        MediaError: a medium cannot be read.
    """
    media = sample.media()
    read = [read_source(source) for _, source in media]
    suffixes = [
        media_suffix(kind, source, data) for (kind, source), data in zip(media, read, strict=True)
    ]
    if len(media) > 1:
        suffixes = [f"{number}.{suffix}" for number, suffix in enumerate(suffixes)]
    row = {"key": sample.key, **_text_fields(sample, suffixes)}
    text = json.dumps(row, ensure_ascii=False, sort_keys=True)
    members = [(f"{name}.json", text.encode())]
    return members + [
        (f"{name}.{suffix}", data) for suffix, data in zip(suffixes, read, strict=True)
    ]


def read_source(source: Source) -> bytes:
    """The bytes of a medium, not decoded.

    Raises:
        MediaError: there is nothing to read, or more than a medium may have.
    """
    opened = open_source(source, Limits(), SourcePolicy())
    if not isinstance(opened, ByteSource):
        raise MediaNotFoundError("a list of frames cannot be packed; give a file")
    with opened:
        return opened.read()


def media_suffix(kind: PartKind, source: Source, data: bytes) -> str:
    """What to call a medium: as its file is called, or by how it begins."""
    if isinstance(source, Path) and source.suffix[1:].lower() in SUFFIX_KINDS:
        return source.suffix[1:].lower()
    for offset, beginning, suffix in _BEGINNINGS:
        if data[offset : offset + len(beginning)] == beginning:
            return suffix
    return _SUFFIXES[kind]


def _text_fields(sample: Sample, suffixes: list[str]) -> dict[str, Any]:
    """A sample as `data.shards` reads it back, its media named by their suffixes."""
    if not sample.caption:
        names = iter(suffixes)
        return {"messages": [_named(message, names) for message in sample.messages]}
    question = sample.messages[0]["content"]
    fields: dict[str, Any] = {question[0]["type"]: suffixes[0]}
    if sample.others:
        fields["captions"] = list(sample.answers)
    else:
        fields["caption"] = sample.answers[0]
    if len(question) > 1:
        fields["instruction"] = question[1]["text"]
    return fields


def _named(message: dict[str, Any], names: Iterator[str]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [
        part
        if isinstance(part, str) or part["type"] == "text"
        else {"type": part["type"], part["type"]: next(names)}
        for part in content
    ]
    return {"role": message["role"], "content": parts}


def _write_shard(path: Path, samples: _Samples, shard_bytes: int) -> Shard:
    """Fill one shard with at least one sample."""
    first, count = samples.next, 0

    def write(file: BinaryIO) -> None:
        nonlocal count
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            while samples.waiting is not None:
                size = sum(_stored(len(data)) for _, data in samples.waiting[1])
                if count and file.tell() + size + tarfile.RECORDSIZE > shard_bytes:
                    break
                for name, data in samples.take():
                    member = tarfile.TarInfo(name)  # time 0, owner 0: the same bytes every time
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                count += 1

    _write_whole(path, write)
    places = scan_shard(path)
    size = path.stat().st_size
    header = json.dumps(index_header(size, len(places))).encode() + b"\n"
    index = path.with_name(path.name + INDEX_SUFFIX)
    _write_whole(index, lambda file: file.write(header + places.tobytes()))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(path.name, first, samples.next, count, size, digest, samples.kept)


def _stored(size: int) -> int:
    """Bytes a member takes in a tar: a header block, and its data in whole blocks."""
    block = tarfile.BLOCKSIZE
    return block + -(-size // block) * block


def _begin(spec: DatasetSpec, rows: Rows, out: Path, shard_bytes: int) -> Manifest:
    """The manifest of the folder, with the shards that are whole; a new one in an empty folder."""
    fresh = Manifest(_source(spec, rows), shard_bytes)
    if not (out / MANIFEST).exists():
        if any(out.glob(f"*{SHARD_SUFFIX}")):
            raise DataError(f"{out} holds shards from elsewhere; give another folder")
        fresh.save(out)
        return fresh
    found = _load(out)
    _require_same(out, found, fresh)
    whole = []
    for shard in found.shards:
        file = out / shard.name
        index = file.with_name(file.name + INDEX_SUFFIX)
        if not file.is_file() or file.stat().st_size != shard.bytes or not index.is_file():
            found.complete = False
            break
        whole.append(shard)
    found.shards = whole
    return found


def _source(spec: DatasetSpec, rows: Rows) -> dict[str, Any]:
    """What tells the rows of a data set apart from others, for a manifest."""
    path = Path(spec.path)
    files, media = source_files(spec)
    return {
        "name": rows.name,
        "format": spec.format,
        "rows": len(rows),
        "bytes": path.stat().st_size if path.is_file() else None,
        "sha256": _digest(files),
        # From the file on: both may move together.
        "media": media and Path(os.path.relpath(media.resolve(), path.parent.resolve())).as_posix(),
    }


def _digest(files: list[Path]) -> str:
    """The sha256 of some files as if they were one.

    Raises:
        DataError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise unreadable(path, error) from None
    return digest.hexdigest()


def _require_same(out: Path, found: Manifest, fresh: Manifest) -> None:
    """Refuse to go on with what was begun with other rows or settings.

    Raises:
        DataError: something differs; the message names it.
    """
    ending = "give the same again, or another folder"
    for name in {**found.source, **fresh.source}:
        if name in _LATER_FIELDS and name not in found.source:
            continue
        old, new = found.source.get(name), fresh.source.get(name)
        if old != new:
            what = _LATER_FIELDS.get(name, name)
            raise DataError(
                f"{out} was begun with another source: its {what} was {old} and is {new} now; "
                f"{ending}"
            )
    for name in ("shard_bytes", "version"):
        old, new = getattr(found, name), getattr(fresh, name)
        if old != new:
            raise DataError(f"{out} was begun with another {name}: {old}, now {new}; {ending}")


def _load(out: Path) -> Manifest:
    try:
        fields = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        shards = [Shard(**shard) for shard in fields.pop("shards")]
        return Manifest(**fields, shards=shards)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{out / MANIFEST} is not one of a pack: {error}") from None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a write that fails into a message that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} could not be written: {error.strerror or error}; what was written before "
            "stays, start again once that is put right"
        ) from error


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """A file that is there with all its bytes on the disk, or not at all.

    Raises:
        DataError: it could not be written.
    """
    with _writing(path), whole_file(path) as other, other.open("wb") as file:
        write(file)

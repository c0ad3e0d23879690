"""Annotation files of benchmarks, and the media they name, wherever below a folder these lie.

Published benchmarks come as annotations and an archive of media, and everybody unpacks the archive
somewhere else; so a medium is looked for under the folder by its name.
"""

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from video_llama.data.records import json_fault, parse_json, unreadable
from video_llama.data.sample import SUFFIX_KINDS, media_path
from video_llama.errors import DataError
from video_llama.processing.conversation import PartKind


def find_files(data: Path, *patterns: str) -> list[Path]:
    """Files of a folder, or of one of its folders for annotations, that match the first pattern
    that any of them matches.

    Raises:
        DataError: none matches.
    """
    if not data.is_dir():
        raise DataError(f"{data} is no folder; --data names the folder of the benchmark's files")
    for pattern in patterns:
        if found := matching(data, pattern):
            return found
    raise DataError(f"{data} has no {' or '.join(patterns)}")


def matching(data: Path, pattern: str) -> list[Path]:
    """Files of a folder that match a pattern, or of the first of its folders for annotations that
    has such; empty where there are none."""
    for folder in (data, *(data / name for name in ("annotations", "json", "dataset"))):
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found
    return []


def find_file(data: Path, *patterns: str) -> Path:
    """The one file of `find_files`.

    Raises:
        DataError: there is none, or there are several.
    """
    found = find_files(data, *patterns)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{data} has several files that would do: {names}; keep one of them there")
    return found[0]


def read_text(path: Path) -> str:
    """A whole text file.

    Raises:
        DataError: it cannot be read, or is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not text in UTF-8") from None
    except OSError as error:
        raise unreadable(path, error) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it cannot be read or is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except JSONDecodeError as error:
        raise DataError(
            f"{path.name} is no JSON: {error.msg} in line {error.lineno}; the file may be cut off"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is no JSON: {json_fault(error)}") from None


def json_rows(path: Path, under: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of the list that a JSON file holds, or holds under a name, each with its key for
    messages: "test_qa.json#17", rows counted from 0.

    Raises:
        DataError: there is no such list, or something else is in it.
    """
    held = read_json(path)
    if under is not None:
        held = held.get(under) if isinstance(held, dict) else None
    if not isinstance(held, list):
        wanted = "a list" if under is None else f"an object with a list {under!r}"
        raise DataError(f"{path.name} must hold {wanted}")
    for number, row in enumerate(held):
        key = f"{path.name}#{number}"
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except ValueError as error:  # half a character, which only an escape can stand for
            raise DataError(f"{key}: {json_fault(error)}") from None
        yield _row(key, row)


def line_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one on each line, as `json_rows` gives them."""
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    for number, line in enumerate(lines):
        key = f"{path.name}#{number}"
        yield _row(key, parse_json(key, line.encode()))


def csv_rows(path: Path, *fields: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a csv file with a header, as `json_rows` gives them.

    Raises:
        DataError: a field is not in the header, or a row is too short.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    header = reader.fieldnames or []
    missing = [name for name in fields if name not in header]
    if missing:
        raise DataError(
            f"{path.name} has no column {missing[0]!r}; it has {', '.join(header) or 'nothing'}"
        )
    for number, row in enumerate(_csv_records(reader, path)):
        key = f"{path.name}#{number}"
        if any(row[name] is None for name in fields):
            raise DataError(f"{key}: the row is too short; the file may be cut off")
        yield key, row


def _csv_records(reader: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:  # a quote that is never closed makes one field of all the rest
        raise DataError(
            f"{path.name} is no csv near line {reader.line_num}: {error}; is a quote not closed?"
        ) from None


class MediaFolder:
    """Finds media of one kind below a folder.

    Attributes:
        root: the folder.
        kind: what is looked for where a name has no suffix, or another one: a video that was
            converted keeps its name, and a picture beside it may have the same.
    """

    def __init__(self, root: Path, kind: PartKind) -> None:
        self.root = root
        self.kind = kind
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in _media_below(root):
            self._by_name[path.name].append(path)
            if _kind_of(path.name) == kind:
                self._by_stem[path.stem].append(path)

    def find(
        self, key: str, name: Any, *, under: Sequence[str] = (), of_others: Collection[str] = ()
    ) -> Path:
        """The medium of a name.

        Looked for in the folders `under`, then as it is named, then by its own name anywhere, then
        by its name without a suffix; anywhere but in folders named as in `of_others`, where other
        media have the same names. What is nowhere gets the first path it could have had; the runner
        counts it as absent.

        Raises:
            DataError: not a name, or one that leads out of the folder.
        """
        name = str(name) if isinstance(name, int) else name
        plain = media_path(key, self.root, name)
        places = [media_path(key, self.root / folder, name) for folder in under]
        for place in (*places, plain):
            if os.path.exists(place):  # noqa: PTH110 (no error for a name that is too long)
                return place
        stem = plain.stem if _kind_of(plain.name) else plain.name
        for path in (*self._by_name.get(plain.name, ()), *self._by_stem.get(stem, ())):
            if not set(of_others).intersection(path.relative_to(self.root).parts[:-1]):
                return path
        return (places or [plain])[0]


def _kind_of(name: str) -> PartKind | None:
    return SUFFIX_KINDS.get(Path(name).suffix[1:].lower())


def _media_below(root: Path) -> Iterator[Path]:
    """Files that are media by their suffix, in the order of their names; links are followed."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if _kind_of(name) and not name.startswith("."):
                yield path


def _row(key: str, row: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(row, dict):
        raise DataError(f"{key}: a row must be an object with named fields, not {str(row)[:60]!r}")
    return key, row

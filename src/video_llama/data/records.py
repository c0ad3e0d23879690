"""Rows of a text file by number, without holding them: only where each begins and ends.

A csv of 2.5 million rows takes 40 MB this way. A row is read from the file when it is asked for,
so that readers can be sent to worker processes and share nothing.

Shape: N records.
"""

import codecs
import csv
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import numpy as np

from video_llama.data.sample import Sample
from video_llama.errors import DataError

MAX_LINES = 1000  # of one csv record; more are a quote that was never closed
_WHITE = " \t\n\r"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Records:
    """Where the records of a file are: bytes [starts[i], ends[i]), int64 (N)."""

    path: Path
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, index: int) -> bytes:
        """The bytes of one record.

        Raises:
            OSError: the file cannot be read any more.
        """
        with self.path.open("rb") as file:
            file.seek(int(self.starts[index]))
            return file.read(int(self.ends[index] - self.starts[index]))


class RecordRows:
    """Samples from records.

    Args:
        name: of the data set in messages.
        records: where the rows are.
        parse: (key, record) to a sample; it raises DataError for a bad one. A function of a module
            or a `functools.partial` of one, so that workers can be sent it.
    """

    def __init__(self, name: str, records: Records, parse: Callable[[str, bytes], Sample]) -> None:
        self.name = name
        self.records = records
        self.parse = parse

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """One row.

        Raises:
            DataError: a bad row, or a file that cannot be read any more.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        key = f"{self.name}#{index}"
        try:
            record = self.records.read(index)
        except OSError as error:
            raise DataError(f"{key}: the file cannot be read: {error.strerror}") from None
        return self.parse(key, record)


def line_records(path: Path) -> Records:
    """The lines of a file that are not blank.

    Raises:
        DataError: the file cannot be read.
    """
    return _records(path, lambda _: False)


def csv_records(path: Path) -> Records:
    """The rows of a csv file that are not blank, its header the first; cells may hold line breaks.

    Raises:
        DataError: the file cannot be read, or a quote is never closed.
    """
    return _records(path, _goes_on)


def _records(path: Path, goes_on: Callable[[bytes], bool]) -> Records:
    """The records of a file; `goes_on` tells of some lines whether the next belongs to them."""
    starts, ends = array("q"), array("q")
    at = 0
    held: list[bytes] = []  # lines of a record that goes on
    try:
        with path.open("rb") as file:
            for line in file:
                at += len(line)
                if held or goes_on(line):
                    held.append(line)
                    if len(held) > MAX_LINES:
                        break
                    # Only a line with a quote can end what a quote began.
                    if len(held) == 1 or b'"' not in line or goes_on(b"".join(held)):
                        continue
                    line, held = b"".join(held), []
                if line.strip():
                    starts.append(at - len(line))
                    ends.append(at)
    except OSError as error:
        raise unreadable(path, error) from None
    if held:
        raise DataError(
            f"{path.name}: a quote is opened and never closed, in row {max(len(starts) - 1, 0)} "
            "or the header; the file may be cut off"
        )
    return Records(path, np.asarray(starts), np.asarray(ends))


def _goes_on(text: bytes) -> bool:
    """Whether some lines of csv end inside quotes: the line break is part of a cell then."""
    if b'"' not in text:
        return False
    # A letter behind the line break is refused, unless a cell is still open.
    probe = text.decode("latin-1").rstrip("\r\n") + "\nx"
    try:
        next(csv.reader([probe]))
    except csv.Error:
        return False
    return True


def json_records(path: Path, under: str | None = None) -> Records:
    """The elements of the list a JSON file holds, or holds under the name `under`.

    The file is read whole once, each element is parsed and forgotten.

    Raises:
        DataError: the file cannot be read, is no JSON, or has no such list.
    """
    try:
        data = path.read_bytes()  # not as text: line breaks must keep their bytes
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not text in UTF-8") from None
    except OSError as error:
        raise unreadable(path, error) from None
    starts, ends = array("q"), array("q")
    # The same point in characters and in bytes.
    at, place = 0, len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    del data
    try:
        for start, end in _elements(text, _list_start(text, under, path.name)):
            place += _size(text, at, start)
            starts.append(place)
            place += _size(text, start, end)
            ends.append(place)
            at = end
    except JSONDecodeError as error:
        raise DataError(
            f"{path.name} is no JSON: {error.msg} in line {error.lineno}; the file may be cut off"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path.name} cannot be read as JSON, in row {len(starts)} or before: "
            f"{json_fault(error)}"
        ) from None
    return Records(path, np.asarray(starts), np.asarray(ends))


def parse_json(key: str, record: bytes) -> Any:
    """A record that is JSON, all texts of which can be written as UTF-8.

    Raises:
        DataError: it is not.
    """
    try:
        text = record.decode("utf-8-sig")
        value = json.loads(text)
        if "\\u" in text:  # only an escape can stand for half a character
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}: not JSON: {json_fault(error)}") from None
    return value


def json_fault(error: ValueError | RecursionError) -> str:
    """Why JSON cannot be read, in a few words."""
    if isinstance(error, JSONDecodeError):
        return error.msg
    if isinstance(error, UnicodeDecodeError):
        return "not text in UTF-8"
    if isinstance(error, UnicodeEncodeError):
        half = error.object[error.start]
        return f"\\u{ord(half):04x} is half a character, and its other half is missing"
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deep"
    return str(error)  # such as a number with too many digits


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file of data that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"there is no file of data {path}")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path} is a folder; name the file of data in it")
    return DataError(f"{path.name} cannot be read: {error.strerror}")


def _size(text: str, start: int, end: int) -> int:
    """Bytes of a stretch of text."""
    piece = text[start:end]
    return len(piece) if piece.isascii() else len(piece.encode())


def _list_start(text: str, under: str | None, name: str) -> int:
    """Where the list begins, just behind its bracket."""
    at = _skip(text, 0)
    if under is not None and text[at : at + 1] == "{":
        for field, start in _fields(text, at + 1):
            if field == under and text[start : start + 1] == "[":
                return start + 1
        raise DataError(f"{name} holds no list {under!r}")
    if text[at : at + 1] != "[":
        wanted = "a list" if under is None else f"an object with a list {under!r}"
        raise DataError(f"{name} must hold {wanted}; it begins with {text[at : at + 1]!r}")
    return at + 1


def _elements(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Start and end of each value of a list, from behind its bracket on."""
    at = _skip(text, at)
    while text[at : at + 1] != "]":
        _, end = _DECODER.raw_decode(text, at)
        yield at, end
        at = _after(text, end, "]")


def _fields(text: str, at: int) -> Iterator[tuple[str, int]]:
    """Name and start of each value of an object, from behind its brace on.

    A value is parsed only when the next one is asked for.
    """
    at = _skip(text, at)
    while text[at : at + 1] != "}":
        field, end = _DECODER.raw_decode(text, at)
        start = _skip(text, _expect(text, _skip(text, end), ":"))
        yield field, start
        _, end = _DECODER.raw_decode(text, start)
        at = _after(text, end, "}")


def _after(text: str, at: int, closing: str) -> int:
    """Where the next value, or the closing bracket, stands."""
    at = _skip(text, at)
    return at if text[at : at + 1] == closing else _skip(text, _expect(text, at, ","))


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise JSONDecodeError(f"{mark!r} is expected", text, at)
    return at + 1


def _skip(text: str, at: int) -> int:
    """Where white space ends."""
    while text[at : at + 1] and text[at] in _WHITE:
        at += 1
    return at

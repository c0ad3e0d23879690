"""A file that grows by lines of JSON, and is sound however a run ended.

Lines are written in batches and are on the disk when `append` returns. A last line that was torn by
a crash is dropped when the file is opened again.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Self

from video_llama.errors import DataError
from video_llama.whole_file import whole_file


class Journal:
    """The records of a file, and their continuation.

    A context manager that closes the file.

    Args:
        path: of the file; it and its folder are made if they are not there.

    Raises:
        DataError: a line before the last is no JSON: the file is damaged, or no journal.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            with _naming(path):
                self.records = list(self._read())
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records, and wait until they are on the disk."""
        added = list(records)
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in added]
        with _naming(self.path):
            self._file.write("".join(lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self.records += added

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with _naming(self.path):  # closing writes once more what could not be written
            self._file.close()

    def _read(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        sound = 0  # bytes of whole lines
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break  # torn
            try:
                record = json.loads(line)
            except (JSONDecodeError, UnicodeDecodeError):
                record = None
            if not isinstance(record, dict):
                raise DataError(
                    f"line {number} of {self.path} is damaged; remove the file to begin anew"
                )
            sound += len(line)
            yield record
        self._file.truncate(sound)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of an open file say of which: those of a full disk do not."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """A JSON file that is there whole or not at all."""
    with _naming(path), whole_file(path) as other, other.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")

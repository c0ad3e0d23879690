"""A note in a folder of what its files were made from, so that nothing else is mixed with them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from video_llama.whole_file import whole_file

NOTE = "made_from.json"


def read(folder: Path) -> dict[str, Any] | None:
    """The note of a folder; None where there is none."""
    path = folder / NOTE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Leave the note, whole or not at all."""
    with whole_file(folder / NOTE) as partial:
        partial.write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")


def claim(
    folder: Path, made_from: Mapping[str, Any], told: Callable[[Any], str], advice: str
) -> None:
    """Leave the note in a folder without one; refuse a folder that was made from something else.

    Args:
        folder: to be written to.
        made_from: what it is made from now.
        told: says what a note means.
        advice: what to do about another one.

    Raises:
        SystemExit: it was made from something else.
    """
    found = read(folder)
    if found is None:
        write(folder, made_from)
    elif found != made_from:
        raise SystemExit(
            f"error: {folder} was made from {told(found)}, and this run has {told(made_from)}; "
            f"{advice}"
        )


def sizes(shards: Path) -> dict[str, int]:
    """Bytes of every shard in a folder."""
    return {path.name: path.stat().st_size for path in sorted(shards.glob("*.tar"))}


def checksum(paths: list[Path]) -> str:
    """SHA-256 over several files, in their order."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()

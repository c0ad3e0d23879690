"""From a line of a recipe to the rows of a data set."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from video_llama.data.captions import INSTRUCTION, open_captions
from video_llama.data.jsonl import open_jsonl
from video_llama.data.llava import open_llava
from video_llama.data.records import json_fault
from video_llama.data.sample import Rows
from video_llama.data.shards import SHARD_SUFFIX, open_shards, shard_paths
from video_llama.data.videochat import open_videochat
from video_llama.data.webvid import open_webvid
from video_llama.errors import DataError, OptionError
from video_llama.home import spelled_out

# How a file is opened (name, file, folder of its media), and where media lie beside the file by
# default: the first of these folders that is there.
Opener = Callable[[str, Path, Path], Rows]
FILES: dict[str, tuple[Opener, tuple[str, ...]]] = {
    "webvid": (open_webvid, ("videos", "../videos", ".")),
    "captions": (open_captions, ("image", "images", ".")),
    "descriptions": (
        partial(open_captions, instruction=INSTRUCTION),
        ("image", "images", "."),
    ),
    "llava": (open_llava, ("image", "images", ".")),
    "videochat": (open_videochat, ("videos", "../videos", ".")),
    "jsonl": (open_jsonl, (".",)),
}
FORMATS = ("auto", *FILES, "shards")
SNIFF_CHARS = 1 << 16


@dataclass(frozen=True)
class DatasetSpec:
    """One data set of a recipe.

    Attributes:
        path: of its file; of shards a folder, a pattern such as "train-{000..012}.tar", or a file.
        format: "webvid", "captions" (of stage 1), "descriptions" (the same file, learnt as stage 2
            does), "llava", "videochat", "jsonl" or "shards"; "auto" finds out.
        media: the folder of the media, by default one beside the file. Shards hold their own.
        weight: share among the data sets of a recipe.
        name: what it is called in messages, by default the file's name.
    """

    path: str
    format: str = "auto"
    media: str | None = None
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise OptionError(f"format is one of {', '.join(FORMATS)}, not {self.format!r}")
        if not self.path:
            raise OptionError("path is empty; name the file of a data set")
        if not self.weight > 0:
            raise OptionError(f"weight must be a positive number, not {self.weight!r}")
        for name in ("path", "media"):
            if value := getattr(self, name):
                object.__setattr__(self, name, spelled_out(value))  # "~" of a recipe


def open_dataset(spec: DatasetSpec) -> Rows:
    """The rows of a data set. Bad rows show when they are asked for.

    Raises:
        DataError: the file cannot be read, or is not of the format.
    """
    path = Path(spec.path)
    kind = detect_format(spec.path) if spec.format == "auto" else spec.format
    name = spec.name or path.name
    if kind == "shards":
        if spec.media is not None:
            raise OptionError("shards hold their media themselves; leave media out")
        return open_shards(name, spec.path)
    opener, folders = FILES[kind]
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the file of data in it")
    if not path.exists():
        raise DataError(f"there is no file of data {path}")
    return opener(name, path, media_folder(path, spec.media, folders))


def source_files(spec: DatasetSpec) -> tuple[list[Path], Path | None]:
    """The files that hold the rows of a data set, and the folder of its media; shards have none.

    Raises:
        DataError: there are no such files, or no such folder.
    """
    kind = detect_format(spec.path) if spec.format == "auto" else spec.format
    if kind == "shards":
        return shard_paths(spec.path), None
    path = Path(spec.path)
    return [path], media_folder(path, spec.media, FILES[kind][1])


def media_folder(path: Path, given: str | None, folders: tuple[str, ...]) -> Path:
    """The folder of the media of a file.

    Raises:
        DataError: the given one is not there.
    """
    if given is not None:
        folder = Path(given)
        if not folder.is_dir():
            raise DataError(f"there is no folder of media {given}")
        return folder
    beside = [path.parent / folder for folder in folders]
    return next(folder for folder in beside if folder.is_dir() or folder == path.parent)


def detect_format(path: str) -> str:
    """What a file holds: by its suffix and its first row.

    Raises:
        DataError: it is none of the known formats.
    """
    suffix = Path(path).suffix.lower()
    if suffix == SHARD_SUFFIX or Path(path).is_dir():
        return "shards"
    if suffix in (".csv", ".jsonl"):
        return {".csv": "webvid", ".jsonl": "jsonl"}[suffix]
    if suffix == ".json":
        found = _json_format(Path(path))
        if found is not None:
            return found
    raise DataError(
        f"{Path(path).name}: its format does not show; give it with --format, in a recipe with "
        f"data.0.format=, as one of {', '.join(FORMATS[1:])}"
    )


def _json_format(path: Path) -> str | None:
    """The format of a JSON file by what stands first in it.

    Raises:
        DataError: it cannot be read, is no JSON, or holds nothing.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            read = file.read(SNIFF_CHARS)
    except FileNotFoundError:
        raise DataError(f"there is no file of data {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise DataError(f"{path.name} cannot be read: {reason}") from None
    head = read.lstrip()
    if not head:
        raise DataError(f"{path.name} is empty; give another file")
    if head.startswith("{") and '"annotations"' in head:
        return "captions"
    first = head[1:].lstrip() if head.startswith("[") else head
    if head.startswith("[") and first.startswith("]"):
        raise DataError(f"{path.name} holds an empty list: there are no rows; give another file")
    try:
        row, _ = json.JSONDecoder().raw_decode(first)
    except (ValueError, RecursionError) as error:
        if len(read) == SNIFF_CHARS:
            return None  # the first value may be longer than what was read of it
        raise DataError(
            f"{path.name} is no JSON: {json_fault(error)}; the file may be cut off"
        ) from None
    if not head.startswith("["):
        return None
    if isinstance(row, dict):
        return {"conversations": "llava", "QA": "videochat"}.get(
            next((name for name in row if name in ("conversations", "QA")), "")
        )
    return "videochat" if isinstance(row, list) and len(row) == 2 else None

"""Labelled pictures and sounds in WebDataset shards: one class for each, no conversation.

The files are `images-*-SPLIT-NN.tar` and `sounds-*-SPLIT-NN.tar` with KEY.jpg (or .png) or KEY.ogg
(or .wav, .flac) beside KEY.json, whose "label" names the class. `split` is train, val or test.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from video_llama.errors import DataError

Split = Literal["train", "val", "test"]
Content = Literal["images", "sounds"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SUFFIXES: dict[str, tuple[str, ...]] = {
    "images": ("jpg", "jpeg", "png", "webp"),
    "sounds": ("ogg", "opus", "wav", "flac", "mp3"),
}


@dataclass(frozen=True)
class Labelled:
    """A picture or a sound with its class; `data` is the file, `about` all that is said of it."""

    key: str
    label: str
    suffix: str
    data: bytes
    about: dict[str, Any]


def read_labelled(folder: str | Path, content: Content, split: Split) -> Iterator[Labelled]:
    """All items of a split, in the order of the shards.

    Raises DataError when there is no such shard, or one is damaged or holds an item without label.
    """
    pattern = f"{content}-*-{split}-*.tar"
    shards = sorted(Path(folder).glob(pattern))
    if not shards:
        raise DataError(f"there is no {pattern} in {Path(folder).name}; give the folder of shards")
    for shard in shards:
        try:
            with tarfile.open(shard) as tar:
                yield from _items(tar, shard.name, SUFFIXES[content])
        except tarfile.TarError as error:
            raise DataError(f"{shard.name} is no tar file that can be read: {error}") from error


def _items(tar: tarfile.TarFile, shard: str, suffixes: tuple[str, ...]) -> Iterator[Labelled]:
    waiting: dict[str, dict[str, bytes]] = {}  # files of an item whose other one is still to come
    for member in tar:
        if member.name.rpartition("/")[2].startswith("._"):
            continue  # what macOS packs beside each file
        key, _, suffix = member.name.rpartition(".")
        file = tar.extractfile(member) if suffix == "json" or suffix in suffixes else None
        if file is None:
            continue
        found = waiting.setdefault(key, {})
        found[suffix] = file.read()
        if len(found) == 2 and "json" in found:
            del waiting[key]
            about = _about(found.pop("json"), f"{shard}, {key}")
            ((kind, data),) = found.items()
            yield Labelled(key, about["label"], kind, data, about)
    if waiting:
        raise DataError(
            f"{shard}: {next(iter(waiting))} has no label or no file; {len(waiting)} so"
        )


def _about(data: bytes, where: str) -> dict[str, Any]:
    try:
        about = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its json cannot be read: {error}") from error
    if not isinstance(about, dict) or not isinstance(about.get("label"), str):
        raise DataError(f'{where}: its json has no "label"')
    return about

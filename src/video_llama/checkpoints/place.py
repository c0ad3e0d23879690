"""Where a model is written: the whole of it or nothing, and over nothing that is somebody's."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from video_llama.checkpoints.readers import TensorInfo
from video_llama.errors import CheckpointError
from video_llama.temporary_folder import TemporaryFolder

RECORD_NAME = "conversion.json"
_PARTIAL = ".partial-"
# What a conversion writes: what else lies in its folder is not replaced.
_OURS = re.compile(
    r"(config|generation_config|processor_config|special_tokens_map|added_tokens|vocab|tokenizer"
    r"|tokenizer_config|model\.safetensors\.index)\.json"
    r"|tokenizer\.model|merges\.txt|chat_template\.jinja|model(-\d+-of-\d+)?\.safetensors"
    rf"|{re.escape(RECORD_NAME)}"
)
_LAST = ("config.json", RECORD_NAME)  # without the first it is no model, without the other not ours


def require_free_place(output: Path, overwrite: bool) -> None:
    """Refuse a place that is taken, unless it holds nothing but a model of ours and may be
    replaced."""
    if not output.exists() or (output.is_dir() and not _entries(output)):
        return
    if not overwrite:
        raise CheckpointError(f"{output} exists already; give another place, or --overwrite")
    if not (output / RECORD_NAME).is_file():
        raise CheckpointError(f"{output} is no converted model; --overwrite replaces only those")
    if strangers := [path for path in _entries(output) if not _is_ours(path)]:
        raise CheckpointError(
            f"{output} holds {strangers[0].name}, which no conversion wrote; --overwrite would "
            "remove it: move it away, or give another place"
        )


@contextmanager
def whole_or_nothing(output: Path, infos: Mapping[str, TensorInfo]) -> Iterator[Path]:
    """A directory to fill; what is in it comes to its final place when all of it is written.

    What a process that was killed has left at this place is removed first.

    Raises CheckpointError when the tensors do not fit on the disk.
    """
    output = output.resolve()
    there = output.is_dir()  # perhaps a disk of its own, which nothing can take the place of
    output.parent.mkdir(parents=True, exist_ok=True)
    disk = output if there else output.parent
    needed = sum(info.num_bytes for info in infos.values())
    free = shutil.disk_usage(disk).free
    if free < needed:
        raise CheckpointError(
            f"the model takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free at {output}"
        )
    partial = TemporaryFolder(_PARTIAL if there else f".{output.name}{_PARTIAL}", disk)
    try:
        whole = partial.path / "whole"  # with the rights of a new folder
        whole.mkdir()
        yield whole
        if there:
            _move_in(whole, output)
        else:
            whole.rename(output)
    finally:
        partial.close()


def _move_in(whole: Path, output: Path) -> None:
    """What was there is no model any more before the first file of the new one comes."""
    old = [path for path in _entries(output) if _is_ours(path)]
    for path in sorted(old, key=lambda path: path.name not in _LAST):
        path.unlink()
    for path in sorted(whole.iterdir(), key=lambda path: path.name in _LAST):
        path.replace(output / path.name)


def _entries(output: Path) -> list[Path]:
    return [path for path in output.iterdir() if not path.name.startswith(_PARTIAL)]


def _is_ours(path: Path) -> bool:
    return _OURS.fullmatch(path.name) is not None and path.is_file()

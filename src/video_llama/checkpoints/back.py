"""A directory of ours back into the files of the published layout, under the original keys."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from video_llama.checkpoints.load import read_config
from video_llama.checkpoints.part import read_part
from video_llama.checkpoints.place import whole_or_nothing
from video_llama.checkpoints.plan import split
from video_llama.checkpoints.processor_files import TOKENIZER_FILES
from video_llama.checkpoints.readers import TensorFile, TensorInfo, open_tensors, read_header
from video_llama.checkpoints.table import FILE_PREFIXES, Kind, Part, to_published
from video_llama.checkpoints.writer import model_files, write_model
from video_llama.errors import CheckpointError
from video_llama.models import VideoLlamaConfig

# The published names; those of the branches are the ones the parity files use.
FILE_NAMES: dict[Kind, str] = {
    "eva": "eva_vit_g.pth",
    "blip2": "blip2_pretrained_flant5xxl.pth",
    "imagebind": "imagebind_huge.pth",
    "language_model": "llama",
    "video_branch": "VL_branch.pth",
    "audio_branch": "AL_branch.pth",
}
_UNDER_MODEL: tuple[Kind, ...] = ("blip2", "video_branch", "audio_branch")

# Published key -> (our key, what of it).
_Entries = dict[str, tuple[str, Part]]


def to_published_files(directory: str | Path, output: str | Path) -> dict[Kind, Path]:
    """Write the published files of a model that `convert` made; returns where each part is.

    Keys and, for a model converted with dtype "keep", tensors are those of the originals. What was
    dropped does not come back: ImageBind's other sides, EVA's last block and classifier.

    Raises CheckpointError for a model that has no published form (convolutional stems, centred
    features, another bias) or a place that is taken.
    """
    directory, output = Path(directory), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output} exists already; give another place")
    config = read_config(directory)
    if read_part(directory) is not None:
        raise CheckpointError(
            f"{directory.name} is a part of another model and has no published form; train with "
            "export.kind=model for one that is whole"
        )
    scaling = config.imagebind_config.feature_scaling
    if config.has_audio_branch and scaling != "published":
        raise CheckpointError(
            f"imagebind_config.feature_scaling is {scaling!r}, which published files cannot say; "
            "they would be read otherwise"
        )
    files = model_files(directory)
    entries = _published_entries(files)
    headers = {path: read_header(path) for path in set(files.values())}
    infos = {name: headers[path][name] for name, path in files.items()}
    read = _reader(files)
    with whole_or_nothing(output, infos) as partial:
        for kind, found in entries.items():
            if kind == "language_model":
                _write_language_model(directory, partial, config, found, infos, read)
            else:
                _write_pickle(partial / FILE_NAMES[kind], kind, found, read)
    return {kind: output / FILE_NAMES[kind] for kind in entries}


def _published_entries(names: dict[str, Path]) -> dict[Kind, _Entries]:
    entries: dict[Kind, _Entries] = {}
    for name in names:
        published = to_published(name)
        if not published:
            raise CheckpointError(f"'{name}' has no published form; only converted models do")
        for entry in published:
            key = entry.name.removeprefix(FILE_PREFIXES[entry.kind])
            entries.setdefault(entry.kind, {})[key] = (name, entry.part)
    return entries


def _reader(files: dict[str, Path]) -> Callable[[str], torch.Tensor]:
    opened: dict[Path, TensorFile] = {}

    def read(name: str) -> torch.Tensor:
        path = files[name]
        if path not in opened:
            opened.clear()  # one mapping at a time
            opened[path] = open_tensors(path)
        return opened[path].read(name)

    return read


def _write_pickle(
    path: Path, kind: Kind, entries: _Entries, read: Callable[[str], torch.Tensor]
) -> None:
    tensors = {}
    for key, (name, part) in entries.items():
        tensor = read(name)
        if part != "whole" and tensor.chunk(3)[1].any():
            raise CheckpointError(
                f"'{name}' has a bias on the keys, which the published encoder has not"
            )
        tensors[key] = split(tensor, part).clone()  # a pickle saves whole storages
    torch.save({"model": tensors} if kind in _UNDER_MODEL else tensors, path)


def _write_language_model(
    source: Path,
    partial: Path,
    config: VideoLlamaConfig,
    entries: _Entries,
    infos: dict[str, TensorInfo],
    read: Callable[[str], torch.Tensor],
) -> None:
    directory = partial / FILE_NAMES["language_model"]
    directory.mkdir()
    text_config = config.text_config.to_dict()
    (directory / "config.json").write_text(json.dumps(text_config, indent=2) + "\n", "utf-8")
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (source / name).is_file():
            shutil.copy2(source / name, directory / name)
    write_model(
        directory,
        {key: infos[name] for key, (name, _) in entries.items()},
        lambda key: read(entries[key][0]),
    )

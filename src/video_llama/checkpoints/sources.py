"""Which of a person's files are which parts of a published model.

Files are recognised by the keys they hold, never by their names.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from video_llama.checkpoints.readers import SUFFIXES, open_tensors
from video_llama.checkpoints.table import Kind
from video_llama.errors import CheckpointError

# What to call a part, and where it is published.
DESCRIPTIONS: dict[Kind, str] = {
    "eva": "vision encoder (eva_vit_g.pth, from the BLIP-2 models of LAVIS)",
    "blip2": "image Q-Former (blip2_pretrained_flant5xxl.pth, from the BLIP-2 models of LAVIS)",
    "language_model": "language model (a Hugging Face directory of LLaMA, Vicuna or LLaMA-2-chat)",
    "projection": "projection (pretrained_minigpt4.pth)",
    "imagebind": "ImageBind (imagebind_huge.pth, from facebookresearch/ImageBind)",
    "video_branch": "vision-language branch (a VL checkpoint of Video-LLaMA)",
    "audio_branch": "audio-language branch (an AL checkpoint of Video-LLaMA)",
}

_LLM_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LLM_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class PublishedFiles:
    """The files of a published model; what is None is looked for in the folder, if one is given.

    `language_model` is a directory, the others are files. One file may be both branches.
    `projection`, a MiniGPT-4 file with `llama_proj` alone, is optional and read before the
    branches.
    """

    eva: Path | None = None
    blip2: Path | None = None
    imagebind: Path | None = None
    language_model: Path | None = None
    video_branch: Path | None = None
    audio_branch: Path | None = None
    projection: Path | None = None


def option_name(kind: Kind) -> str:
    """The option of the command line that gives a part."""
    return "--" + kind.replace("_", "-")


def find_files(
    folder: Path | None, given: PublishedFiles, audio: bool = True, *, new_branches: bool = False
) -> PublishedFiles:
    """What is given, the rest as found in the folder.

    Raises CheckpointError when a part is missing, there twice, or not what it was given as.
    Without `audio`, ImageBind and the audio branch are neither needed nor used; with
    `new_branches` the branches may be missing.
    """
    for field in fields(given):
        _require_kind(field.name, getattr(given, field.name))  # type: ignore[arg-type]
    found = given if folder is None else _search(folder, given)
    if not audio:
        found = replace(found, imagebind=None, audio_branch=None)
    _require_complete(found, folder, audio, new_branches)
    return found


def language_model_files(directory: Path) -> list[Path]:
    """The weight files of a Hugging Face directory, safetensors before pickles.

    Raises CheckpointError when there are none or some are missing.
    """
    for name in _LLM_INDEXES:
        index = directory / name
        if index.is_file():
            files = _indexed(index)
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise CheckpointError(
                    f"{directory.name} is incomplete: {', '.join(missing)} of {name} "
                    "is missing; download it again"
                )
            return files
    for name in _LLM_FILES:
        if (directory / name).is_file():
            return [directory / name]
    raise CheckpointError(
        f"{directory.name} has no weights: {' or '.join(_LLM_FILES)}, or shards with their index, "
        "are wanted"
    )


def recognise(folder: Path) -> dict[Kind, list[Path]]:
    """The parts in a folder: files in it, and language models in it or one level below.

    Raises CheckpointError when there is no such folder, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no such directory: {folder}")
    models = [path for path in (folder, *sorted(folder.iterdir())) if _is_language_model(path)]
    found: dict[Kind, list[Path]] = {"language_model": models} if models else {}
    own = set(language_model_files(folder)) if folder in models else set()
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and path.is_file() and path not in own:
            for kind in kinds_of(path):
                found.setdefault(kind, []).append(path)
    return found


def language_model_config(directory: Path) -> PreTrainedConfig:
    """The configuration of a language model's directory.

    Raises CheckpointError when transformers does not know such a model.
    """
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise CheckpointError(
            f"{directory.name}/config.json is no configuration of a language model that "
            "transformers knows"
        ) from error


def branch_files(files: PublishedFiles) -> list[Path]:
    """The trained branches that are there; one file may be both."""
    given = (files.video_branch, files.audio_branch)
    return list(dict.fromkeys(path for path in given if path is not None))


def kinds_of(path: Path) -> set[Kind]:
    """Which parts a file holds, by its keys; empty when it is none."""
    return _by_keys(open_tensors(path).tensors)


def _by_keys(keys: Iterable[str]) -> set[Kind]:
    names = set(keys)
    signs: dict[Kind, bool] = {
        "eva": {"cls_token", "pos_embed", "blocks.0.attn.qkv.weight"} <= names,
        "blip2": {"query_tokens", "ln_vision.weight"} <= names,
        "imagebind": "modality_preprocessors.audio.cls_token" in names,
        "video_branch": "video_query_tokens" in names,
        "audio_branch": "audio_query_tokens" in names,
        "projection": names == {"llama_proj.weight", "llama_proj.bias"},
    }
    return {kind for kind, is_so in signs.items() if is_so}


def _indexed(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index.name} is not an index of shards") from error
    return [index.parent / name for name in sorted(names)]


def _require_kind(kind: Kind, path: Path | None) -> None:
    """Refuse a file that was given as something it is not."""
    if path is None:
        return
    if kind == "language_model":
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"{path} is no {DESCRIPTIONS[kind]}: it has no config.json; give the directory"
            )
        return
    found = kinds_of(path)
    if kind not in found:
        known = " and the ".join(DESCRIPTIONS[other] for other in sorted(found))
        holds = f"holds the {known}" if found else "holds none of the parts of Video-LLaMA"
        raise CheckpointError(
            f"{path.name}, given with {option_name(kind)}, {holds}, not the {DESCRIPTIONS[kind]}"
        )


def _search(folder: Path, given: PublishedFiles) -> PublishedFiles:
    found = given
    for kind, paths in recognise(folder).items():
        if getattr(given, kind) is not None or not paths:
            continue
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise CheckpointError(
                f"{folder.name} holds the {DESCRIPTIONS[kind]} more than once ({names}); "
                f"say which with {option_name(kind)}"
            )
        found = replace(found, **{kind: paths[0]})
    return found


def _is_language_model(path: Path) -> bool:
    config = path / "config.json"
    if not config.is_file():
        return False
    if not any((path / name).is_file() for name in (*_LLM_INDEXES, *_LLM_FILES)):
        return False
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path.name}/config.json is not a configuration") from error
    return model_type != "video_llama"


def _require_complete(
    found: PublishedFiles, folder: Path | None, audio: bool, new_branches: bool
) -> None:
    wanted: list[Kind] = ["eva", "blip2", "language_model"]
    if audio:
        wanted.append("imagebind")
    if not new_branches:
        wanted += ["video_branch", *(["audio_branch"] if audio else [])]
    missing = [kind for kind in wanted if getattr(found, kind) is None]
    if not missing:
        return
    where = "given" if folder is None else f"in {folder.name}"
    options = [option_name(kind) for kind in missing]
    if "audio_branch" in missing or "imagebind" in missing:
        options.append("or --no-audio for a model that does not hear")
    if {"video_branch", "audio_branch"} & set(missing):
        options.append("or --new-branches to train them")
    raise CheckpointError(
        f"not {where}: " + "; ".join(DESCRIPTIONS[kind] for kind in missing) + ".\n"
        "Give what is missing with " + ", ".join(options)
    )

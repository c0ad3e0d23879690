"""A directory into a model on a device."""

import errno
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers import AutoConfig

# With which whoever loads a model can have it from transformers' Auto classes as well.
from video_llama.auto import (
    VideoLlamaConfig,
    VideoLlamaForConditionalGeneration,
    VideoLlamaProcessor,
)
from video_llama.checkpoints import MODEL_FOLDER
from video_llama.checkpoints.hub import resolve
from video_llama.checkpoints.part import (
    LORA_A,
    LORA_B,
    PART_FILE,
    Part,
    adapted,
    base_of,
    put_in,
    read_part,
    read_trained,
    require_base,
)
from video_llama.checkpoints.readers import read_header
from video_llama.checkpoints.writer import model_files
from video_llama.errors import CheckpointError, OptionError

__all__ = ["load_model", "load_processor", "resolve"]

# What the libraries raise for settings of a wrong type or that do not go together.
UNFIT = (
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
)
TOO_LARGE = (
    "there is not enough memory to load {}; close other programs, or load it in fewer bits "
    "(dtype, quantization)"
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_model(
    directory: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    offline: bool | None = None,
) -> VideoLlamaForConditionalGeneration:
    """The model of a directory, in evaluation mode.

    `device` "auto" is an accelerator if there is one. `dtype` "auto" is the type of the weights,
    but float32 for half precision on a CPU, which computes it slowly; else "bf16", "fp16", "fp32".
    `offline` is as in `resolve`, for the model that a part belongs to.

    Raises CheckpointError when the directory holds no such model or its weights do not fit its
    configuration, OptionError for a device or type that is not there.
    """
    directory = Path(directory)
    part = read_part(directory)
    if part is not None:
        base = whole_model(directory, part, offline=offline)
        model = load_model(base, device=device, dtype=dtype, offline=offline)
        put_in(model, read_trained(directory), part.lora_scale)
        return model
    target = choose_device(device)
    if target.type == "meta":
        raise OptionError("the device meta computes nothing; give 'auto', 'cpu', or another")
    config = read_config(directory)
    _require_weights(directory)
    try:
        loaded: Any = VideoLlamaForConditionalGeneration.from_pretrained(
            directory,
            config=config,
            dtype=choose_dtype(dtype, config, target),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except MemoryError as error:
        raise CheckpointError(TOO_LARGE.format(directory.name)) from error
    except (OSError, *UNFIT) as error:
        # torch has no kind of its own for this.
        if getattr(error, "errno", None) == errno.ENOMEM or "allocate memory" in str(error):
            raise CheckpointError(TOO_LARGE.format(directory.name)) from error
        raise CheckpointError(
            f"the weights in {directory.name} do not fit its config.json; "
            "'video-llama verify' says where"
        ) from error
    model, info = loaded
    wrong = [name for kind in ("missing_keys", "unexpected_keys") for name in info[kind]]
    if wrong:
        raise CheckpointError(
            f"the weights in {directory.name} do not fit its config.json: '{sorted(wrong)[0]}' is "
            "missing or unknown; 'video-llama verify' says more"
        )
    return model.to(target).eval()


def whole_model(directory: Path, part: Part, *, offline: bool | None = None) -> Path:
    """The directory of the model that a part belongs to.

    Raises CheckpointError when there is none, or its weights are not those it was trained with.
    """
    place = base_of(directory, part)
    try:
        base = resolve(place, offline=offline)
    except CheckpointError as error:
        raise CheckpointError(
            f"{directory.name} is a part of the model {part.base}, as seen from its folder: "
            f'{error}; put that back, or name its place as "base" in {PART_FILE}'
        ) from error
    require_base(directory, part, base)
    return base


def trained_before(directory: Path, *, offline: bool | None = None) -> dict[str, torch.Tensor]:
    """What the parts that a model is made of have trained, as they keep it; nothing of a whole one.

    Weights that adapters were added to are not among them.
    """
    part = read_part(directory)
    if part is None:
        return {}
    kept = trained_before(resolve(base_of(directory, part), offline=offline), offline=offline)
    for name, tensor in read_trained(directory).items():
        if name.endswith((LORA_A, LORA_B)):
            kept.pop(f"{name.removesuffix(LORA_A).removesuffix(LORA_B)}.weight", None)
        else:
            kept[name] = tensor
    return kept


def kept_in_float32(
    directory: Path, names: Container[str] | None = None, *, offline: bool | None = None
) -> dict[str, torch.Tensor]:
    """Tensors that a model's files keep in float32, exactly, whatever type it is loaded in.

    Args:
        directory: of the model; of a part, those of the model it belongs to with what it trained.
        names: of those that are wanted; None: all.
        offline: as in `load_model`.
    """
    part = read_part(directory)
    if part is not None:
        kept = kept_in_float32(
            whole_model(directory, part, offline=offline), names, offline=offline
        )
        for name in adapted(read_trained(directory)):
            kept.pop(name, None)  # not the base's any more
        trained = trained_before(directory, offline=offline)
        return kept | {name: t for name, t in trained.items() if names is None or name in names}
    kept = {}
    for path in sorted(set(model_files(directory).values())):
        header = read_header(path)
        with safe_open(path, framework="pt") as file:
            for name, info in header.items():
                if info.dtype == torch.float32 and (names is None or name in names):
                    kept[name] = file.get_tensor(name)
    return kept


def load_processor(directory: str | Path) -> VideoLlamaProcessor:
    """The processor of a directory. Raises CheckpointError when it has none."""
    directory = Path(directory)
    if not (directory / "processor_config.json").is_file():
        raise CheckpointError(
            f"{directory.name} has no processor_config.json, which says how frames and sound are "
            "prepared and what a prompt looks like; copy the model's files again, all of them"
        )
    try:
        return VideoLlamaProcessor.from_pretrained(directory, local_files_only=True)
    except (OSError, OptionError, *UNFIT) as error:
        raise CheckpointError(
            f"{directory.name} has no processor that can be read (processor_config.json and the "
            f"tokenizer's files): {error}"
        ) from error


def is_run(directory: Path) -> bool:
    """Whether it is what a training run wrote, with its model below it."""
    own, below = (folder / "config.json" for folder in (directory, directory / MODEL_FOLDER))
    return below.is_file() and not own.is_file()


def read_config(directory: Path) -> VideoLlamaConfig:
    """The configuration of a directory.

    Raises CheckpointError when there is none, or it is another model's.
    """
    if not directory.is_dir():
        raise CheckpointError(f"no such directory: {directory}")
    if not (directory / "config.json").is_file():
        if is_run(directory):
            raise CheckpointError(
                f"{directory.name} is the folder of a training run; its model is "
                f"{directory / MODEL_FOLDER}"
            )
        raise CheckpointError(
            f"{directory.name} has no config.json; published files are converted with "
            "'video-llama convert' first"
        )
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, *UNFIT) as error:
        raise CheckpointError(f"{directory.name}/config.json cannot be read: {error}") from error
    if not isinstance(config, VideoLlamaConfig):
        raise CheckpointError(
            f"{directory.name} holds a model of type {config.model_type!r}, not a Video-LLaMA"
        )
    return config


def empty_model(config: VideoLlamaConfig) -> VideoLlamaForConditionalGeneration:
    """The model of a configuration, without weights.

    Raises CheckpointError when its settings do not go together.
    """
    try:
        with torch.device("meta"):
            return VideoLlamaForConditionalGeneration(config)
    except UNFIT as error:
        raise CheckpointError(f"the settings of the model do not go together: {error}") from error


def choose_device(device: str | torch.device) -> torch.device:
    """The device of a name; "auto" is an accelerator if there is one.

    Raises OptionError for a device that is not there.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise OptionError(
            f"the device {device!s} is not there; give 'auto', 'cpu', or one that is"
        ) from error
    return chosen


def choose_dtype(
    dtype: str | torch.dtype, config: VideoLlamaConfig, device: torch.device
) -> torch.dtype:
    """The type to compute in. Raises OptionError for an unknown name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        saved = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        half_on_cpu = saved == torch.float16 and device.type == "cpu"
        return torch.float32 if half_on_cpu else saved
    if dtype not in DTYPES:
        raise OptionError(f"no dtype is called {dtype!r}; give auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _require_weights(directory: Path) -> None:
    """Every weight file is there, whole and no pointer; its tensors are not read."""
    for path in set(model_files(directory).values()):
        read_header(path)

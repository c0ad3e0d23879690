"""The model of a recipe, ready to be trained."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from video_llama.checkpoints.load import kept_in_float32, load_model, read_config, resolve
from video_llama.errors import OptionError
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.training.adapters import add_lora, compute_again, quantize
from video_llama.training.recipe import Recipe
from video_llama.training.stages import set_trainable

# Where the frozen encoders are, by what a run takes of its media.
VISION_ENCODERS = ("vision_branch.vision_encoder", "vision_branch.qformer")
VISION_STATES = (*VISION_ENCODERS, "vision_branch.query_tokens")
PICTURE_SIDE, SOUND_SIDE = "audio_branch.imagebind.vision", "audio_branch.imagebind.audio"


@dataclass(frozen=True)
class Prepared:
    """A model with what belongs to it.

    Attributes:
        model: on the CPU; what trains is float32 and marked so.
        autocast: the type to compute in, where it is not that of the weights.
        trained: names of the parameters that train.
    """

    model: VideoLlamaForConditionalGeneration
    autocast: torch.dtype | None
    trained: tuple[str, ...]


def prepare(recipe: Recipe, device: torch.device) -> Prepared:
    """Load the model of a recipe and freeze what does not train.

    Raises:
        CheckpointError: there is no such model.
        OptionError: the model has no such modules, or a setting does not fit it.
    """
    directory = base_directory(recipe)
    stored = read_config(directory).dtype
    kept = stored if isinstance(stored, torch.dtype) else torch.float32
    model = load_model(directory, device="cpu", dtype=kept)
    half = recipe.precision == "bf16" or (recipe.precision == "auto" and device.type != "cpu")
    autocast = torch.bfloat16 if half else None
    trained = set_trainable(model, recipe)
    _require_frozen(recipe, trained)
    release(model, unused_encoders(recipe))
    _set_types(model, frozen=autocast or torch.float32)
    if kept != torch.float32:
        _put_in_exactly(model, directory, recipe)
    if recipe.model.quantization is not None:
        quantize(model.language_model, recipe.model.quantization, autocast or torch.float32)
    if recipe.lora is not None:
        add_lora(model.language_model, recipe.lora, recipe.seed)
    if recipe.model.gradient_checkpointing:
        compute_again(model.language_model)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return Prepared(model, autocast, tuple(names))


def base_directory(recipe: Recipe) -> Path:
    """The directory of the model a recipe begins with."""
    return resolve(recipe.model.path, offline=recipe.model.offline or None)


def _set_types(model: nn.Module, frozen: torch.dtype) -> None:
    """What trains in float32, the rest as given; buffers that are computed stay as they are."""
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved and buffer.is_floating_point():
            buffer.data = buffer.data.to(frozen)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen)


def _put_in_exactly(model: nn.Module, directory: Path, recipe: Recipe) -> None:
    """What is kept in float32, and the type of the model as a whole has rounded."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kept = kept_in_float32(directory, names, offline=recipe.model.offline or None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])


def encoders(recipe: Recipe) -> tuple[str, ...]:
    """The frozen encoders a run sends its media through."""
    if recipe.branch == "vision":
        return VISION_ENCODERS
    return (SOUND_SIDE,) if recipe.modality == "audio" else (PICTURE_SIDE,)


def unused_encoders(recipe: Recipe) -> tuple[str, ...]:
    """The encoders a run never calls."""
    used = encoders(recipe)
    return tuple(one for one in (*VISION_ENCODERS, PICTURE_SIDE, SOUND_SIDE) if one not in used)


def release(model: nn.Module, names: tuple[str, ...]) -> None:
    """Take modules out of memory; what is frozen and not called is not missed."""
    for name in names:
        try:
            parent = model.get_submodule(name.rpartition(".")[0])
        except AttributeError:
            continue  # the model has no such branch
        setattr(parent, name.rpartition(".")[2], nn.Module())


def _require_frozen(recipe: Recipe, trained: list[str]) -> None:
    """What a cache or fewer bits replace must not train."""
    if recipe.cache.path is not None:
        states = VISION_STATES if recipe.branch == "vision" else encoders(recipe)
        wrong = [name for name in trained if name.startswith(states)]
        if wrong:
            raise OptionError(
                f"cache.path keeps what comes out of '{wrong[0]}', which modules trains; "
                "leave one of them out"
            )
    for name, given in (("model.quantization", recipe.model.quantization), ("lora", recipe.lora)):
        wrong = [one for one in trained if one.startswith("language_model.")]
        if wrong and given is not None:
            raise OptionError(
                f"{name} is for a frozen language model, and modules trains '{wrong[0]}'; "
                "leave one of them out"
            )
    wrong = [name for name in trained if name.startswith(unused_encoders(recipe))]
    if wrong:
        raise OptionError(
            f"modules trains '{wrong[0]}', which branch {recipe.branch!r} never uses; "
            "leave it out or choose another branch"
        )

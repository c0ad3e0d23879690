"""The four stages of the published training (paper, section 2.2), as data.

Order: vision 1, vision 2, audio 1, audio 2. Everything a stage does not name is frozen. The audio
stages learn from pictures alone, fed through ImageBind's vision side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import nn

from video_llama.errors import OptionError
from video_llama.training.schedule import WarmupCosine

VISION_MODULES = (
    "vision_branch.frame_position_embedding.",
    "vision_branch.video_query_tokens",
    "vision_branch.video_qformer.",
    "vision_branch.projector.",
)
AUDIO_MODULES = (
    "audio_branch.position_embedding.",
    "audio_branch.query_tokens",
    "audio_branch.qformer.",
    "audio_branch.projector.",
)

CaptionsOrChats = Literal["captions", "instructions"]


@dataclass(frozen=True)
class Stage:
    """One stage.

    `modules` are prefixes of the parameters that train. `data` are the kinds of material, `batch`
    the samples of a step over all devices, `branch` says which branch sees the pictures.
    AdamW has betas (0.9, 0.999); `weight_decay` spares vectors, biases and norms.
    """

    name: str
    branch: Literal["vision", "audio"]
    data: CaptionsOrChats
    modules: tuple[str, ...]
    schedule: WarmupCosine
    batch: int
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)


class Trains(Protocol):
    """What says which modules train: a stage, or a recipe."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """Prefixes of the parameters that train."""
        ...


def _captions(steps: int) -> WarmupCosine:
    return WarmupCosine(1e-4, 8e-5, 1e-6, warmup_steps=steps, steps_per_epoch=steps, epochs=5)


def _instructions(warmup: int) -> WarmupCosine:
    return WarmupCosine(3e-5, 1e-5, 1e-6, warmup_steps=warmup, steps_per_epoch=1000, epochs=3)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("vision_stage1", "vision", "captions", VISION_MODULES, _captions(2500), batch=32),
        Stage("vision_stage2", "vision", "instructions", VISION_MODULES, _instructions(1000), 4),
        Stage("audio_stage1", "audio", "captions", AUDIO_MODULES, _captions(5000), batch=32),
        Stage("audio_stage2", "audio", "instructions", AUDIO_MODULES, _instructions(400), 4),
    )
}


def set_trainable(model: nn.Module, stage: Trains) -> list[str]:
    """Freeze all of a model but a stage's modules; returns the names that train.

    Frozen modules are put into evaluation mode, the others into training mode.

    Raises OptionError when a prefix names nothing: the model has no such branch.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in stage.modules:
        if not any(name.startswith(prefix) for name in names):
            raise OptionError(f"{stage.name} trains '{prefix}', which this model does not have")
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(stage.modules))
        if parameter.requires_grad:
            trained.append(name)
    model.eval()
    for module in _trained_modules(model, stage):
        module.train()
    return trained


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups of what trains: matrices decay; vectors, biases and norms do not.

    The rule of the original: no decay under two dimensions, and none for names with "bias", "ln"
    or "bn" in them.
    """
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if _decays(name, parameter.ndim) else spared).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def _decays(name: str, dimensions: int) -> bool:
    return dimensions >= 2 and not any(part in name for part in ("bias", "ln", "bn"))


def _trained_modules(model: nn.Module, stage: Trains) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        if f"{name}.".startswith(stage.modules):
            yield module

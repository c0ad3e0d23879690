"""The optimizer, the length of a gradient, and both as tensors for a checkpoint.

Some parameters may be shared among processes (FSDP2): each holds a piece, a DTensor.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from video_llama.errors import TrainingError
from video_llama.training.adapters import part_name
from video_llama.training.recipe import OptimizerSettings
from video_llama.training.stages import decay_groups

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def make_optimizer(model: nn.Module, settings: OptimizerSettings, peak: float) -> torch.optim.AdamW:
    """AdamW over what trains; see `stages.decay_groups`."""
    groups: Any = [g for g in decay_groups(model, settings.weight_decay) if g["params"]]
    # Accelerators update many tensors at once by themselves, which cannot be pieces and whole ones.
    pieces = any(isinstance(p, DTensor) for group in groups for p in group["params"])
    return torch.optim.AdamW(
        groups, lr=peak, betas=settings.betas, eps=settings.eps, foreach=False if pieces else None
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the step to come."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Length of the gradient over all parameters, the same number in every process."""
    own, pieces = [], []
    for parameter in parameters:
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            pieces.append(gradient.to_local().float().square().sum())
        elif gradient is not None:
            own.append(gradient.float().square().sum())
    total = torch.stack(own).sum() if own else torch.zeros(())
    if pieces:
        shared = torch.stack(pieces).sum()
        torch.distributed.all_reduce(shared)
        total = total.to(shared.device) + shared
    return float(total.sqrt())


def clip_gradients(parameters: Iterable[nn.Parameter], norm: float, longest: float) -> None:
    """Shorten a gradient of length `norm` to at most `longest`."""
    if norm > longest:
        scale_gradients(parameters, longest / norm)


def whole(tensor: torch.Tensor, *, keep: bool = True) -> torch.Tensor:
    """All of a tensor on the CPU, gathered where it is shared: a call every process must make.
    Nothing of it for those that do not `keep` it."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu().contiguous() if keep else torch.empty(0)


def trained_tensors(model: nn.Module, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """What trains, by the names of `adapters.part_name`, whole and on the CPU; see `whole`."""
    return {
        part_name(name): whole(parameter, keep=keep)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trained(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put trained tensors back.

    Raises:
        TrainingError: they are of another model, or other modules were trained.
    """
    own = {part_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    for name in sorted({*own, *tensors}):
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape:
            raise TrainingError(
                f"the checkpoint does not fit: '{name}' is missing, unknown or of another shape; "
                "it is of another model or trains other modules"
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(_like(tensors[name], parameter))


def optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True
) -> dict[str, torch.Tensor]:
    """The optimizer's memory of every parameter, as "exp_avg NAME" and so on; see `whole`.

    Raises:
        TrainingError: it remembers some of what trains and not all of it.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and optimizer.state and parameter not in optimizer.state:
            raise TrainingError(f"the optimizer knows nothing of '{name}', which trains")
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind} {part_name(name)}"] = whole(value, keep=keep)
    return tensors


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put the optimizer's memory back."""
    for name, parameter in model.named_parameters():
        state = {kind: tensors.get(f"{kind} {part_name(name)}") for kind in MOMENTS}
        if parameter.requires_grad and state["step"] is not None:
            optimizer.state[parameter] = {
                # AdamW keeps the count of steps on the CPU.
                kind: value.clone() if kind == "step" else _like(value, parameter)
                for kind, value in state.items()
                if value is not None
            }


def _like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor placed, and shared, as a parameter is."""
    if isinstance(parameter, DTensor):
        target = tensor.to(parameter.device)
        return distribute_tensor(target, parameter.device_mesh, parameter.placements)
    return tensor.to(parameter.device, copy=True)

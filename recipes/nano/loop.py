"""A plain training loop, shared by the steps of the recipe."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

KEPT_EVERY = 200  # steps
DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")


def normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Normal numbers on the device, drawn on the CPU: a seed means the same everywhere."""
    return torch.randn(tuple(shape), generator=generator).to(DEVICE)


def uniform(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Numbers in [0, 1) on the device, drawn on the CPU."""
    return torch.rand(tuple(shape), generator=generator).to(DEVICE)


def cosine(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def train(
    name: str,
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[int], tuple[torch.Tensor, dict[str, float]]],
    steps: int,
    rate: float,
    weight_decay: float = 0.05,
    warmup: int = 50,
    every: int = 50,
    module: nn.Module | None = None,
    keep: Path | None = None,
) -> None:
    """Minimise `loss_of(step)` with AdamW; prints a line of JSON now and then.

    With `keep`, where the training stands (`module` and the optimiser) is written there every few
    minutes, and read back by a run that finds it; the random numbers begin anew.

    Stops with an error before an update that is not finite.
    """
    parameters = [p for p in parameters if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    started, seen, first = time.time(), {}, 0
    if module is not None and keep is not None and keep.is_file():
        held = torch.load(keep, weights_only=True, map_location=DEVICE)
        module.load_state_dict(held["module"])
        optimizer.load_state_dict(held["optimizer"])
        first = held["step"]
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, rate, warmup)
        loss, figures = loss_of(step)
        norm = None
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"{name}: the gradient of step {step} is not finite")
        optimizer.step()
        for key, value in {"loss": loss.item(), **figures}.items():
            seen[key] = value if key not in seen else 0.9 * seen[key] + 0.1 * value
        if step % every == every - 1 or step == steps - 1:
            rounded = {k: round(v, 4) for k, v in seen.items()}
            line = {"stage": name, "step": step + 1, **rounded, "s": round(time.time() - started)}
            print(json.dumps(line), flush=True)
        if module is not None and keep is not None and step % KEPT_EVERY == KEPT_EVERY - 1:
            part = keep.with_suffix(".part")
            held = {"step": step + 1, "module": module.state_dict()}
            torch.save({**held, "optimizer": optimizer.state_dict()}, part)
            part.replace(keep)


def batches(count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless shuffled batches of indices below `count`."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)


def save(folder: Path, name: str, module: nn.Module) -> None:
    """Write a step's weights under their final name only when complete."""
    part = folder / f"{name}.pt.part"
    torch.save(module.state_dict(), part)
    part.replace(folder / f"{name}.pt")


def load(folder: Path, name: str, module: nn.Module) -> nn.Module:
    """Read a step's weights back."""
    path = folder / f"{name}.pt"
    if not path.is_file():
        sys.exit(f"error: {path} is missing: run the step that makes it first")
    module.load_state_dict(torch.load(path, weights_only=True, map_location=DEVICE))
    return module

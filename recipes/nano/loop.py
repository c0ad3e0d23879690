"""A plain training loop, shared by the steps of the recipe."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

KEPT_EVERY = 200  # steps
DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")


def normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Normal numbers on the device, drawn on the CPU: a seed means the same everywhere."""
    return torch.randn(tuple(shape), generator=generator).to(DEVICE)


def uniform(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Numbers in [0, 1) on the device, drawn on the CPU."""
    return torch.rand(tuple(shape), generator=generator).to(DEVICE)


def cosine(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, for the weights of products and convolutions (Jordan et al. 2024).

    torch has it for matrices alone; a kernel (out, in, h, w) is taken as the matrix (out, in h w).
    """

    MOMENTUM = 0.95

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(self.MOMENTUM).add_(p.grad)
                update = orthogonal(p.grad.add(momentum, alpha=self.MOMENTUM).flatten(1))
                wide = (update.shape[0] / update.shape[1]) ** 0.5
                p.add_(update.view_as(p), alpha=-group["lr"] * max(1.0, wide))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix (M, N), its singular values brought near one: five steps of Newton and Schulz.

    In bfloat16, which is precise enough, where products in it are fast; elsewhere they are twenty
    times slower than in full precision.
    """
    x = matrix.bfloat16() if has_bfloat16() else matrix
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    return x.to(matrix.dtype)


def products(*modules: nn.Module) -> list[nn.Parameter]:
    """The weights of linear layers and convolutions: what `Muon` is for."""
    layers = [layer for module in modules for layer in module.modules()]
    return [layer.weight for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]


@cache
def has_bfloat16() -> bool:
    """Whether the device has products in bfloat16."""
    if DEVICE.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return DEVICE.type == "cuda" and torch.cuda.is_bf16_supported()


def mixed_precision() -> torch.autocast:
    """Products in bfloat16 where the device has them."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=has_bfloat16())


def attention_kernels() -> AbstractContextManager[None]:
    """Attention by plain products on a CPU: torch's fused kernel goes back through bfloat16 three
    to eleven times slower than that."""
    return sdpa_kernel(SDPBackend.MATH) if DEVICE.type == "cpu" else nullcontext()


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
    turned: Sequence[nn.Parameter] = (),
    turned_rate: float = 0.02,
) -> None:
    """Minimise `loss_of(step)`; prints a line of JSON now and then.

    `turned`, some of the parameters, are trained with Muon, all others with AdamW. With `keep`,
    where the training stands (`module` and the optimisers) is written there every few minutes, and
    read back by a run that finds it; the random numbers begin anew.

    Stops with an error before an update that is not finite.
    """
    parameters = [p for p in parameters if p.requires_grad]
    apart = {id(p) for p in turned}
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in apart]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    ]
    if turned:
        optimizers.append(Muon(turned))
    started, seen, first = time.time(), {}, 0
    if module is not None and keep is not None and keep.is_file():
        held = torch.load(keep, weights_only=True, map_location=DEVICE)
        module.load_state_dict(held["module"])
        for optimizer, state in zip(optimizers, held["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first = held["step"]
    for step in range(first, steps):
        for optimizer, peak in zip(optimizers, (rate, turned_rate), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = cosine(step, steps, peak, warmup)
        with mixed_precision(), attention_kernels():
            loss, figures = loss_of(step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"{name}: the gradient of step {step} is not finite")
        for optimizer in optimizers:
            optimizer.step()
        for key, value in {"loss": loss.item(), **figures}.items():
            seen[key] = value if key not in seen else 0.9 * seen[key] + 0.1 * value
        if step % every == every - 1 or step == steps - 1:
            rounded = {k: round(v, 4) for k, v in seen.items()}
            line = {"stage": name, "step": step + 1, **rounded, "s": round(time.time() - started)}
            print(json.dumps(line), flush=True)
        if module is not None and keep is not None and step % KEPT_EVERY == KEPT_EVERY - 1:
            part = keep.with_suffix(".part")
            states = [optimizer.state_dict() for optimizer in optimizers]
            held = {"step": step + 1, "module": module.state_dict(), "optimizers": states}
            torch.save(held, part)
            part.replace(keep)


def batches(count: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless shuffled batches of indices below `count`."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array (.npy) under its final name only when complete."""
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.rename(path)


def kept_arrays(
    paths: Sequence[Path], make: Callable[[], Sequence[np.ndarray]]
) -> tuple[np.ndarray, ...]:
    """What `make` gives, made and written (.npy) unless it was: one array for each path."""
    if not all(path.is_file() for path in paths):
        for path, array in zip(paths, make(), strict=True):
            save_array(path, array)
    return tuple(np.load(path) for path in paths)


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

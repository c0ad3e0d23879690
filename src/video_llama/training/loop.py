"""One step of training: micro-steps, one gradient, one update.

The loss of a step is the sum over all its learnt tokens, in all processes and micro-steps, divided
by their number; so is its gradient. Which process saw a sample makes no difference.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from video_llama.data.collator import Batch
from video_llama.data.dataset import Rejected
from video_llama.errors import TrainingError
from video_llama.training.adapters import ADAPTER
from video_llama.training.memory import memory_told
from video_llama.training.optim import clip_gradients, gradient_norm, scale_gradients
from video_llama.training.parallel import Processes

NAMED_KEYS = 16  # samples a message names
FOR_A_STEP = (
    "give a larger accumulation or model.gradient_checkpointing=true, or begin a run with fewer "
    "bits, model.quantization"
)


@dataclass(frozen=True)
class StepResult:
    """What a step did, over all processes.

    Attributes:
        loss: sum over all tokens.
        tokens: how many were learnt.
        norm: length of the mean gradient, before clipping.
        rejected: bad samples.
        stop: whether a process was asked to stop.
    """

    loss: float
    tokens: int
    norm: float
    rejected: tuple[Rejected, ...]
    stop: bool


class StepRunner:
    """Runs steps of a wrapped `TrainingStep`.

    Args:
        wrapped: as `Processes.wrap` gives it.
        optimizer: of what trains.
        processes: of the run.
        accumulation: micro-steps of a step.
        clip: longest gradient, or None.
        seed: of the run.
    """

    def __init__(
        self,
        wrapped: nn.Module,
        optimizer: torch.optim.Optimizer,
        processes: Processes,
        accumulation: int,
        clip: float | None,
        seed: int,
    ) -> None:
        self.wrapped = wrapped
        self.optimizer = optimizer
        self.processes = processes
        self.accumulation = accumulation
        self.clip = clip
        self.seed = seed
        self.named = [
            (name.removeprefix("module.").removeprefix("model."), parameter)
            for name, parameter in wrapped.named_parameters()
            if parameter.requires_grad
        ]
        self.parameters = [parameter for _, parameter in self.named]
        self._checked = False

    def run(
        self, step: int, batches: Iterator[Batch], stop: Callable[[], bool] = lambda: False
    ) -> StepResult:
        """Step number `step`, from 0. What `stop` says at its end is told to the other processes.

        Raises:
            TrainingError: the loss or the gradient is not finite, or nothing trains; the model is
                as it was before the step. Or the memory is not enough.
        """
        with memory_told(f"step {step + 1}", FOR_A_STEP):
            return self._run(step, batches, stop)

    def _run(self, step: int, batches: Iterator[Batch], stop: Callable[[], bool]) -> StepResult:
        self.optimizer.zero_grad(set_to_none=True)
        seed_step(self.seed, step, self.processes.rank)
        loss, tokens, keys, odd, rejected = 0.0, 0, [], [], []
        for micro_step in range(self.accumulation):
            batch = next(batches)
            last = micro_step == self.accumulation - 1
            with self.processes.accumulating(self.wrapped, last):
                losses, count = self.wrapped(batch.to(self.processes.device))
                if losses.requires_grad:  # else nothing trains, which is told below
                    losses.backward()
            value = losses.item()
            loss, tokens = loss + value, tokens + int(count)
            keys += batch.keys
            odd += [] if math.isfinite(value) else batch.keys
            rejected += batch.rejected
            self._require_gradients(step)
        self.processes.average_gradients(self.parameters)
        loss, many, bad, wanted = self.processes.add([loss, tokens, len(rejected), float(stop())])
        tokens = round(many)
        if bad:
            rejected = self.processes.gather(rejected)
        norm = self._update(step, loss, tokens, odd, keys)
        return StepResult(loss, tokens, norm, tuple(rejected), wanted > 0)

    def _update(
        self, step: int, loss: float, tokens: int, odd: Sequence[str], keys: Sequence[str]
    ) -> float:
        """From the sum of gradients (its mean over processes, by then) to new weights."""
        if not tokens:
            return 0.0  # every sample was bad
        scale_gradients(self.parameters, self.processes.world_size / tokens)
        norm = gradient_norm(self.parameters)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._stop(step, loss, self.processes.gather(odd) or self.processes.gather(keys))
        if not self._checked:
            self._require_learning()
            self._checked = True
        if self.clip is not None:
            clip_gradients(self.parameters, norm, self.clip)
        self.optimizer.step()
        return norm

    def _stop(self, step: int, loss: float, keys: Sequence[str]) -> None:
        what = "the gradient" if math.isfinite(loss) else "the loss"
        named = ", ".join(keys[:NAMED_KEYS])
        more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
        raise TrainingError(
            f"{what} of step {step + 1} is not a finite number, and nothing was changed by it. "
            f"Its samples: {named}{more}. Look at them; lower schedule.peak "
            "or set optimizer.clip and start again, and the run goes on from its last checkpoint"
        )

    def _require_gradients(self, step: int) -> None:
        """In the first micro-step: every parameter that trains is reached."""
        if self._checked:
            return
        missing = [name for name, parameter in self.named if parameter.grad is None]
        if missing:
            raise TrainingError(
                f"'{missing[0]}' is to be trained, but the data of step {step + 1} do not reach "
                "it; leave it out of modules, or choose the branch it belongs to"
            )

    def _require_learning(self) -> None:
        """A gradient of nothing but zeros means that something is wired wrongly."""
        adapters = [p for name, p in self.named if ADAPTER in name]
        for what, parameters in (("lora", adapters), ("modules", self.parameters)):
            if parameters and gradient_norm(parameters) == 0.0:
                raise TrainingError(
                    f"what {what} names gets a gradient of zero in the first step, so it would "
                    "learn nothing; look at the data and at the model to begin with"
                )


def seed_step(seed: int, step: int, rank: int) -> None:
    """The chance of one step (dropout) from its number, so that a run can begin anywhere."""
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)

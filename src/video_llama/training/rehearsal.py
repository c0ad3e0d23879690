"""A look at a run before it: everything is built, the first batches are learnt, nothing is kept."""

import resource
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from video_llama.data.mixture import ShardedBatches
from video_llama.errors import TrainingError
from video_llama.training.loading import batch_loader, worker_errors
from video_llama.training.loop import StepRunner
from video_llama.training.material import open_material
from video_llama.training.optim import make_optimizer, set_rate
from video_llama.training.parallel import Processes
from video_llama.training.prepare import prepare
from video_llama.training.progress import spell_seconds
from video_llama.training.recipe import Recipe
from video_llama.training.step import TrainingStep

STEPS = 3  # the first of them is not timed: it pays for everything that is done once


@dataclass(frozen=True)
class Estimate:
    """What a run will be like.

    Attributes:
        steps, batch, rows: of the run, of a step, of all data sets.
        trained, parameters: how many numbers train, and how many the model has in memory.
        loss: of the first step.
        tokens: learnt of a sample, on average.
        samples_per_second, seconds: measured over the first steps, and for all steps at that speed.
        peak_bytes: of memory; of the accelerator, where there is one.
        rejected: bad samples among the first, and why.
        from_pixels: a cache would make it faster, and is not measured here.
        warnings: of the recipe.
    """

    steps: int
    batch: int
    rows: int
    trained: int
    parameters: int
    loss: float
    tokens: float
    samples_per_second: float
    seconds: float
    peak_bytes: int
    rejected: tuple[str, ...]
    from_pixels: bool
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """For people."""
        lines = [
            f"{self.steps:,} steps of {self.batch} samples, from {self.rows:,} rows",
            f"{self.trained:,} of {self.parameters:,} parameters train",
            f"first loss {self.loss:.4f}, {self.tokens:.1f} learnt tokens a sample",
            f"{self.samples_per_second:.3g} samples/s: {spell_seconds(self.seconds)} in all"
            + (", and less from the cache" if self.from_pixels else ""),
            f"at most {self.peak_bytes / 1e9:.2f} GB of memory",
            *(f"bad sample {one}" for one in self.rejected),
            *(f"warning: {one}" for one in self.warnings),
        ]
        return "\n".join([*lines, ""])


def rehearse(recipe: Recipe) -> Estimate:
    """Learn the first steps of a recipe and forget them.

    Raises:
        OptionError, DataError, CheckpointError, TrainingError: as `trainer.train` does.
    """
    processes = Processes(recipe)
    with processes.losses_told(0), worker_errors():
        estimate = _rehearse(recipe, processes)
        processes.close()
    return estimate


def _rehearse(recipe: Recipe, processes: Processes) -> Estimate:
    micro_batch = processes.micro_batch(recipe)
    material = open_material(recipe)
    prepared = prepare(recipe, processes.device)
    parameters = sum(parameter.numel() for parameter in prepared.model.parameters())
    wrapped = processes.wrap(TrainingStep(prepared.model, prepared.autocast))
    optimizer = make_optimizer(prepared.model, recipe.optimizer, recipe.schedule.peak)
    runner = StepRunner(
        wrapped, optimizer, processes, recipe.accumulation, recipe.optimizer.clip, recipe.seed
    )
    steps = min(STEPS, recipe.steps)
    sampler = ShardedBatches(
        material.mixture,
        micro_batch,
        processes.rank,
        processes.world_size,
        recipe.accumulation,
        steps=steps,
    )
    batches = iter(batch_loader(material.dataset, sampler, recipe.workers, processes.device))
    results, times = [], [time.perf_counter()]
    for step in range(steps):
        set_rate(optimizer, recipe.schedule.rate(step))
        results.append(runner.run(step, batches))
        times.append(time.perf_counter())
    timed = times[1:] if steps > 1 else times
    seconds = (timed[-1] - timed[0]) / (len(timed) - 1)
    rejected = [f"{one.key}: {one.reason}" for result in results for one in result.rejected]
    samples = steps * recipe.batch - len(rejected)
    if not samples:
        raise TrainingError(f"every one of the first samples is bad: {rejected[0]}")
    return Estimate(
        steps=recipe.steps,
        batch=recipe.batch,
        rows=sum(material.mixture.lengths),
        trained=sum(parameter.numel() for parameter in runner.parameters),
        parameters=parameters,
        loss=results[0].loss / max(results[0].tokens, 1),
        tokens=sum(result.tokens for result in results) / samples,
        samples_per_second=recipe.batch / seconds,
        seconds=seconds * recipe.steps,
        peak_bytes=_peak_bytes(processes.device),
        rejected=tuple(rejected),
        from_pixels=recipe.cache.path is not None,
        warnings=(recipe.schedule.warning,) if recipe.schedule.warning else (),
    )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

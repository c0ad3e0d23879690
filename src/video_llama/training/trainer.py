"""A run from its recipe to its model: begin or go on, train, measure, save, export."""

import contextlib
import fcntl
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from video_llama.checkpoints import MODEL_FOLDER
from video_llama.data.collator import Batch
from video_llama.data.mixture import ShardedBatches
from video_llama.errors import TrainingError
from video_llama.training.atomic import remove_half_written, write_file, writing
from video_llama.training.caching import use_cache
from video_llama.training.checkpoint import Checkpoint, Checkpoints, RunState, read_checkpoint
from video_llama.training.export import export, is_exported, require_place
from video_llama.training.loading import batch_loader, worker_errors
from video_llama.training.loop import StepResult, StepRunner
from video_llama.training.marks import require_same_marks, run_marks
from video_llama.training.material import open_material
from video_llama.training.metrics import Metrics
from video_llama.training.optim import (
    load_optimizer,
    load_trained,
    make_optimizer,
    optimizer_tensors,
    set_rate,
    trained_tensors,
)
from video_llama.training.overrides import to_mapping
from video_llama.training.parallel import Processes
from video_llama.training.prepare import prepare
from video_llama.training.presets import recipe_text
from video_llama.training.progress import TrainingProgress
from video_llama.training.quarantine import Quarantine
from video_llama.training.recipe import Recipe
from video_llama.training.resume import find_start, settle
from video_llama.training.signals import Stop
from video_llama.training.step import TrainingStep
from video_llama.training.validation import Validation


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps that are done, of `steps`.
        loss: of the last line of metrics; None if this process trained nothing.
        best: lowest validation loss and its step.
        checkpoint, model: what was written.
        stopped_by: the signal that ended it before its last step.
        rejected: samples that could not be used, of the whole run; listed in quarantine.jsonl.
    """

    step: int
    steps: int
    loss: float | None
    best: tuple[float, int] | None
    checkpoint: Path | None
    model: Path | None
    stopped_by: str = ""
    rejected: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        best = self.best and {"loss": self.best[0], "step": self.best[1]}
        return {
            "step": self.step,
            "steps": self.steps,
            "loss": self.loss,
            "best": best,
            "checkpoint": str(self.checkpoint) if self.checkpoint else None,
            "model": str(self.model) if self.model else None,
            "stopped_by": self.stopped_by or None,
            "rejected": self.rejected,
        }


def train(recipe: Recipe, out: TextIO = sys.stderr) -> Outcome:
    """Run a recipe, from its beginning or from where it was broken off.

    Started by torchrun, every process calls this.

    Raises:
        OptionError: settings that do not fit one another, the model or the processes.
        DataError: a file of data cannot be used.
        CheckpointError: the model cannot be used.
        TrainingError: the run cannot begin or go on; what was saved stays usable.
    """
    processes = Processes(recipe)
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            stack.enter_context(_alone(recipe.output_dir))
        stack.enter_context(processes.losses_told(0))
        outcome = _run(recipe, processes, out if processes.is_first else None)
        processes.close()
    return outcome


def _run(recipe: Recipe, processes: Processes, out: TextIO | None) -> Outcome:
    run = Run(recipe, processes, out)
    try:
        return run.train()
    finally:
        run.close()


@dataclass
class Run:
    """A run in one process."""

    recipe: Recipe
    processes: Processes
    out: TextIO | None
    loss: float | None = None
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        recipe, processes = self.recipe, self.processes
        self.micro_batch = processes.micro_batch(recipe)
        self.checkpoints = Checkpoints(recipe.output_dir / "checkpoints", recipe.checkpoint.keep)
        begun = find_start(recipe, processes, self.checkpoints, self._tell)
        self.material = open_material(recipe)  # before the model: it is quicker to say no
        require_place(recipe, recipe.output_dir / MODEL_FOLDER)
        marks = self._marks(begun)
        prepared = prepare(recipe, processes.device)
        self.model = prepared.model
        if recipe.cache.path is not None:
            first = 0 if begun is None else begun.state.step * recipe.batch
            use_cache(recipe, prepared, self.material, processes, first, self._tell)
        self.step = TrainingStep(prepared.model, prepared.autocast)
        wrapped = processes.wrap(self.step)
        self.optimizer = make_optimizer(self.model, recipe.optimizer, recipe.schedule.peak)
        if begun is not None:
            settle(begun, recipe, marks, processes, self.checkpoints, self._tell)
        self.state = self._state(begun, marks)
        self.runner = StepRunner(
            wrapped,
            self.optimizer,
            processes,
            recipe.accumulation,
            recipe.optimizer.clip,
            recipe.seed,
        )
        self._open_files()

    def train(self) -> Outcome:
        """All steps that are left, and the export."""
        recipe, state = self.recipe, self.state
        stopped, path = "", None
        self._tell_beginning()
        if state.step == recipe.steps:
            self._save()  # the last checkpoint may lie elsewhere
        batches = iter(self._loader())
        with Stop().watching() as stop, worker_errors():
            while state.step < recipe.steps and not stopped:
                with self.processes.losses_told(state.step + 1):
                    path, asked = self._train_step(batches, stop)
                if asked:
                    stopped = stop.name or "another process"
        if stopped and state.step < recipe.steps:
            return self._outcome(path, None, stopped)
        self.quarantine.require_some()
        return self._outcome(self.checkpoints.path(state.step), self._export(), "")

    def close(self) -> None:
        """Close what is open."""
        self.progress.close()
        if self.metrics is not None:
            self.metrics.close()

    def _train_step(self, batches: Iterator[Batch], stop: Stop) -> tuple[Path | None, bool]:
        """A step with all that follows it; its checkpoint, and whether to stop."""
        recipe, state = self.recipe, self.state
        rate = recipe.schedule.rate(state.step)
        set_rate(self.optimizer, rate)
        result = self.runner.run(state.step, batches, lambda: bool(stop.name))
        state.step += 1
        state.tokens += result.tokens
        self.quarantine.add(recipe.batch, result.rejected)
        self._tell_figures(result, rate)
        last = state.step == recipe.steps
        try:
            best = (last or state.step % recipe.validation.every == 0) and self._measure()
        except TrainingError:
            self._save()  # what was learnt is not at fault
            raise
        due = last or best or result.stop or state.step % recipe.checkpoint.every == 0
        path = self._save() if due else None
        self.progress.pause()
        return path, result.stop

    def _tell_figures(self, result: StepResult, rate: float) -> None:
        state, every = self.state, self.recipe.logging.every
        sums = [result.loss, result.tokens, self.recipe.batch, len(result.rejected)]
        state.window = [a + b for a, b in zip(state.window or [0.0] * 4, sums, strict=True)]
        mean = result.loss / max(result.tokens, 1)
        speed = self.progress.update(state.step, mean, rate)
        if state.step % every and state.step != self.recipe.steps:
            return
        loss, tokens, samples, rejected = state.window
        state.window = []
        self.loss = loss / max(tokens, 1)
        if self.metrics is not None:
            self.metrics.add(
                state.step,
                {
                    "loss": self.loss,
                    "rate": rate,
                    "gradient_norm": result.norm,
                    "tokens": round(tokens),
                    "samples": round(samples),
                    "rejected": round(rejected),
                    "samples_per_second": round(speed, 3),
                    "seconds": round(time.perf_counter() - self.started, 3),
                },
            )

    def _tell_beginning(self) -> None:
        recipe, processes = self.recipe, self.processes
        count = sum(parameter.numel() for parameter in self.runner.parameters)
        several = f" by {processes.world_size} processes" if processes.world_size > 1 else ""
        self._tell(
            f"{recipe.name}: {recipe.steps:,} steps of {recipe.batch} samples{several}, "
            f"{count:,} parameters train, {sum(self.material.mixture.lengths):,} rows"
        )
        if recipe.parallel == "fsdp" and not processes.shares_layers:
            self._tell("warning: parallel 'fsdp' shares nothing among one process; use torchrun")
        if recipe.schedule.warning:
            self._tell(f"warning: {recipe.schedule.warning}")

    def _measure(self) -> bool:
        """Validate; whether it is the best so far."""
        if self.validation is None:
            return False
        measured = self.validation.measure(self.step)
        state = self.state
        better = state.best is None or measured.loss < state.best[0]
        best = better and math.isfinite(measured.loss)
        if best:
            state.best = measured.loss, state.step
        if self.metrics is not None:
            self.metrics.add(state.step, {"validation": measured.to_dict()})
        bad = f", {measured.rejected} bad samples left out" if measured.rejected else ""
        self._tell(
            f"validation at step {state.step}: loss {measured.loss:.4f}, accuracy "
            f"{measured.accuracy:.1%} of {measured.tokens:,} tokens{bad}"
        )
        return best

    def _save(self) -> Path:
        """Write a checkpoint of this step."""
        state, processes = self.state, self.processes
        state.mixture = self.material.mixture.state_dict(state.step * self.recipe.batch)
        path = self.checkpoints.path(state.step)
        needed = processes.is_first or processes.shares_layers
        trained = trained_tensors(self.model) if needed else {}
        memory = optimizer_tensors(self.model, self.optimizer) if needed else {}
        with processes.together():
            if processes.is_first:
                self.checkpoints.save(state, trained, memory)
        return path

    def _export(self) -> Path | None:
        """Write the model, unless this one is there already."""
        recipe, target = self.recipe, self.recipe.output_dir / MODEL_FOLDER
        if recipe.export.kind == "none":
            return None
        best = self.checkpoints.best() if recipe.export.checkpoint == "best" else None
        if recipe.export.checkpoint == "best" and best is None:
            self._tell("export.checkpoint is 'best' and none was validated: the last is exported")
        path = best or self.checkpoints.path(self.state.step)
        with self.processes.together(patiently=True):
            if self.processes.is_first:
                chosen = read_checkpoint(path)
                if not is_exported(recipe, chosen.state, target):
                    export(recipe, chosen, target)
        return target

    def _marks(self, begun: Checkpoint | None) -> dict[str, str]:
        """Of what the run learns from, which must be what it was begun with."""
        marks: dict[str, str] = {}
        with self.processes.together():
            if self.processes.is_first:
                marks = run_marks(self.recipe)
        marks = self.processes.agree(marks)
        if begun is not None:
            require_same_marks(begun.state.marks, marks)
        return marks

    def _state(self, begun: Checkpoint | None, marks: dict[str, str]) -> RunState:
        """Where the run is; the model and the optimizer are brought there."""
        mixture = self.material.mixture
        if begun is None:
            return RunState(0, mixture.state_dict(0), to_mapping(self.recipe), marks=marks)
        mixture.position_of(begun.state.mixture)
        load_trained(self.model, begun.trained)
        load_optimizer(self.model, self.optimizer, begun.optimizer)
        begun.state.recipe, begun.state.marks = to_mapping(self.recipe), marks
        return begun.state

    def _open_files(self) -> None:
        recipe, processes, step = self.recipe, self.processes, self.state.step
        folder, first = recipe.output_dir, processes.is_first
        with processes.together(), writing(f"the folder {folder}"):
            if first:
                folder.mkdir(parents=True, exist_ok=True)
                remove_half_written(folder)
                write_file(folder / "recipe.json", recipe_text(recipe).encode())
        self.metrics = (
            Metrics(folder, step, tensorboard=recipe.logging.tensorboard) if first else None
        )
        if self.metrics is not None and self.metrics.warning:
            self._tell(f"warning: {self.metrics.warning}")
        self.quarantine = Quarantine(
            folder / "quarantine.jsonl", recipe.bad_samples, step * recipe.batch, write=first
        )
        self.validation = None
        if self.material.validation is not None:
            self.validation = Validation(
                self.material.validation,
                recipe.validation.samples,
                self.micro_batch,
                recipe.workers,
                processes,
                folder / "quarantine-validation.jsonl",
            )
        self.progress = TrainingProgress(
            recipe.steps, step, recipe.batch, recipe.logging.every, self.out
        )

    def _loader(self) -> Iterable[Batch]:
        recipe, processes = self.recipe, self.processes
        sampler = ShardedBatches(
            self.material.mixture,
            self.micro_batch,
            processes.rank,
            processes.world_size,
            recipe.accumulation,
            self.state.step,
            steps=recipe.steps,
        )
        return batch_loader(self.material.dataset, sampler, recipe.workers, processes.device)

    def _outcome(self, checkpoint: Path | None, model: Path | None, stopped: str) -> Outcome:
        state = self.state
        return Outcome(
            state.step,
            self.recipe.steps,
            self.loss,
            state.best,
            checkpoint,
            model,
            stopped,
            self.quarantine.count,
        )

    def _tell(self, message: str) -> None:
        progress = getattr(self, "progress", None)
        if progress is not None:
            progress.tell(message)
        elif self.out is not None:
            print(message, file=self.out, flush=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While this lasts, no other run can write to the folder."""
    with writing(f"the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another process is training in {folder}; wait for it, or give another output"
            ) from None
        yield

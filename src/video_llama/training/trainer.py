"""A run from its recipe to its model: begin or go on, train, measure, save, export."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from video_llama.alone import alone
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
from video_llama.training.memory import memory_told
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

FOR_THE_MODEL = "begin a run with fewer bits, model.quantization, or share it, parallel=fsdp"


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
            stack.enter_context(_alone(recipe.output_dir, out))
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
        with memory_told("the model", FOR_THE_MODEL):
            prepared = prepare(recipe, processes.device)
        self.model = prepared.model
        if recipe.cache.path is not None:
            first = 0 if begun is None else begun.state.step * recipe.batch
            with memory_told("encoding media", "give a smaller cache.batch"):
                use_cache(recipe, prepared, self.material, processes, first, self._tell)
        self.step = TrainingStep(prepared.model, prepared.autocast)
        with memory_told("the model", FOR_THE_MODEL):
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
        if state.step and not self.checkpoints.path(state.step).is_dir():
            self._save()  # the run goes on from elsewhere: from here on, from its own
        batches = iter(self._loader())
        with Stop().watching() as stop, worker_errors():
            if self._owes_validation():
                with self.processes.losses_told(state.step):
                    path, asked = self._validate(stop)
                stopped = (stop.name or "another process") if asked else ""
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
        last, asked = state.step == recipe.steps, result.stop
        due = last or asked or state.step % recipe.checkpoint.every == 0
        path = self._save() if due else None
        if self._validates() and (last or not asked):
            path, asked = self._validate(stop)
        self.progress.pause()
        return path, asked

    def _validates(self) -> bool:
        """Whether there is a validation after this step."""
        step, recipe = self.state.step, self.recipe
        due = step == recipe.steps or step % recipe.validation.every == 0
        return due and self.validation is not None

    def _owes_validation(self) -> bool:
        """Whether the run was stopped between a checkpoint and its validation."""
        measured, step = self.state.measured, self.state.step
        return step > 0 and measured is not None and measured != step and self._validates()

    def _validate(self, stop: Stop) -> tuple[Path | None, bool]:
        """A validation, where whatever was due before is saved; the step's checkpoint, if there is
        one, and whether to stop. The last one is not stopped: the run is done with it."""
        state, recipe = self.state, self.recipe
        path = self.checkpoints.path(state.step)
        saved = self.processes.agree(path.is_dir())
        try:
            last = state.step == recipe.steps
            best = self._measure((lambda: False) if last else (lambda: bool(stop.name)))
        except TrainingError:
            if not saved:
                self._save()  # what was learnt is not at fault
            raise
        if saved and best is not None:
            with self.processes.together():
                if self.processes.is_first:
                    self.checkpoints.renew(state)
        elif best is None or best:
            self._save()
        return (path if path.is_dir() else None), best is None

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

    def _measure(self, stop: Callable[[], bool]) -> bool | None:
        """Validate; whether it is the best so far, or None where it was stopped."""
        assert self.validation is not None
        state = self.state
        measured = self.validation.measure(self.step, stop)
        if measured is None:
            self._tell(f"stopped in the validation of step {state.step}; the next start does it")
            return None
        state.measured = state.step
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
        first = processes.is_first
        trained = trained_tensors(self.model, keep=first) if needed else {}
        memory = optimizer_tensors(self.model, self.optimizer, keep=first) if needed else {}
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
        with self.processes.together(patiently=True):
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
            state = RunState(0, mixture.state_dict(0), to_mapping(self.recipe), marks=marks)
            state.measured = 0
            return state
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
            Metrics(
                folder,
                step,
                validated=self.state.measured in (None, step),
                tensorboard=recipe.logging.tensorboard,
            )
            if first
            else None
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
def _alone(folder: Path, out: TextIO) -> Iterator[None]:
    """While this lasts, no other run can write to the folder."""
    with contextlib.ExitStack() as stack:
        with writing(f"the folder {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                known = stack.enter_context(alone(folder))
            except BlockingIOError:
                raise TrainingError(
                    f"another process is training in {folder}; wait for it, or give another output"
                ) from None
        if not known:
            message = f"warning: there are no locks in {folder}; let no other run write to it"
            print(message, file=out, flush=True)
        yield

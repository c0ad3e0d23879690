"""Checkpoints of a run: what trains, the optimizer's memory, and where the run is.

    OUTPUT/checkpoints/step-00000500/trained.safetensors     by the names of the model
    OUTPUT/checkpoints/step-00000500/optimizer.safetensors   "exp_avg NAME", "exp_avg_sq NAME", ...
    OUTPUT/checkpoints/step-00000500/state.json              the rest, with sha256 of the others
    OUTPUT/checkpoints/best.json                             which one validated best
    OUTPUT/checkpoints/aside-1/step-...                      of a run that was begun again earlier

A checkpoint is there whole or not at all. The chance of a step (dropout) is seeded by its number,
and frames by the sample's, so no state of a generator is kept.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from video_llama.errors import TrainingError
from video_llama.training.atomic import new_folder, remove_half_written, write_file, writing
from video_llama.whole_file import sync

TRAINED, OPTIMIZER, STATE, BEST = (
    "trained.safetensors",
    "optimizer.safetensors",
    "state.json",
    "best.json",
)
VERSION = 1
# Settings that may differ when a run goes on: they do not change what is learnt.
FREE = (
    "name",
    "output",
    "resume",
    "workers",
    "timeout",
    "logging",
    "checkpoint",
    "export",
    "validation",
    "bad_samples",
    "cache.path",
    "cache.batch",
    "cache.verify",
    "device",
    "parallel",
    "accumulation",
    "model.gradient_checkpointing",
    "model.offline",
)
# Those that do, and may differ all the same: what a run that went astray is put right with.
TUNED = ("optimizer.clip", "schedule.peak", "schedule.floor")
# Settings that came later, and what runs of before did.
LATER = {"captions": "captions"}


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        step: how many steps are done.
        mixture: of the data; see `Mixture.state_dict`.
        recipe: as a mapping.
        tokens: learnt so far.
        window: sums since the last line of metrics; see `training.metrics`.
        best: lowest validation loss so far, and its step.
        measured: step of the last validation, 0 before the first; None in checkpoints that were
            written when their own was done.
        files: sha256 of the other files.
        marks: of the weights it began with and of its data; see `training.marks`.
    """

    step: int
    mixture: dict[str, Any]
    recipe: dict[str, Any]
    tokens: int = 0
    window: list[float] = field(default_factory=list)
    best: tuple[float, int] | None = None
    measured: int | None = None
    files: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    version: int = VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

    path: Path
    state: RunState
    trained: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        names = [path.name for path in self.folder.glob("step-*") if path.is_dir()]
        numbers = [name.removeprefix("step-") for name in names]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step-{step:08d}"

    def clean(self) -> None:
        """Remove what a process that was killed left half written."""
        remove_half_written(self.folder)

    def save(
        self,
        state: RunState,
        trained: Mapping[str, torch.Tensor],
        optimizer: Mapping[str, torch.Tensor],
    ) -> Path:
        """Write a checkpoint, unless the same step has a sound one; then remove those too old.

        Raises:
            TrainingError: it could not be written; those before are untouched.
        """
        path = self.path(state.step)
        kept = [step for step in self.steps() if step != state.step]
        usable = f"the checkpoint of step {kept[-1]} stays usable" if kept else "there is none yet"
        with writing(f"the checkpoint of step {state.step}", usable):
            if not (path.is_dir() and not _faults(path)):
                self._write(path, state, trained, optimizer)
            self.note_best(state)
        self._prune(state)
        return path

    def renew(self, state: RunState) -> None:
        """Write down what has been measured since the checkpoint of this step was written.

        Raises:
            TrainingError: it could not be written; the checkpoint stays as it was.
        """
        with writing(f"the checkpoint of step {state.step}"):
            write_file(self.path(state.step) / STATE, _text(state))
            self.note_best(state)
        self._prune(state)

    def latest(self) -> tuple[Path | None, list[str]]:
        """The last sound checkpoint, and what is wrong with later ones."""
        told = []
        for step in reversed(self.steps()):
            fault = _faults(self.path(step))
            if not fault:
                return self.path(step), told
            told.append(f"the checkpoint of step {step} is damaged ({fault}) and left aside")
        return None, told

    def set_aside(self, begun: Checkpoint) -> Path | None:
        """Rename the checkpoints that do not lead to the one a run begins from; where they are now.

        Those are the later ones, and all of them where it lies elsewhere. None: there are none.
        """
        step = begun.state.step
        own = begun.path.resolve() == self.path(step).resolve()
        others = [self.path(one) for one in self.steps() if not own or one > step]
        if not others:
            return None
        places = (self.folder / f"aside-{number}" for number in itertools.count(1))
        target = next(place for place in places if not place.exists())
        target.mkdir()
        for path in others:
            path.rename(target / path.name)
        for folder in (target, self.folder):
            sync(folder)
        return target

    def note_best(self, state: RunState) -> None:
        """Write down which checkpoint validated best; that none has, too."""
        if state.best is None:
            (self.folder / BEST).unlink(missing_ok=True)
            return
        loss, step = state.best
        text = json.dumps({"step": step, "loss": loss})
        write_file(self.folder / BEST, text.encode() + b"\n")

    def best(self) -> Path | None:
        """The checkpoint that validated best."""
        path = self.folder / BEST
        if not path.is_file():
            return None
        best = self.path(json.loads(path.read_text(encoding="utf-8"))["step"])
        return best if best.is_dir() else None

    def _write(
        self,
        path: Path,
        state: RunState,
        trained: Mapping[str, torch.Tensor],
        optimizer: Mapping[str, torch.Tensor],
    ) -> None:
        with new_folder(path) as folder:
            save_file(dict(trained), folder / TRAINED)
            save_file(dict(optimizer), folder / OPTIMIZER)
            state.files = {name: _sha256(folder / name) for name in (TRAINED, OPTIMIZER)}
            (folder / STATE).write_bytes(_text(state))

    def _prune(self, state: RunState) -> None:
        best = state.best[1] if state.best is not None else None
        done = [step for step in self.steps() if step <= state.step]  # later ones are damaged
        for step in done[: -self.keep]:
            if step != best:
                shutil.rmtree(self.path(step))


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint by its folder.

    Raises:
        TrainingError: it is not there, or damaged.
    """
    if not (path / STATE).is_file():
        raise TrainingError(f"there is no checkpoint {path}; give the folder of one, step-...")
    fault = _faults(path)
    if fault:
        raise TrainingError(f"the checkpoint {path} is damaged: {fault}; give another one")
    state = RunState(**json.loads((path / STATE).read_text(encoding="utf-8")))
    state.best = tuple(state.best) if state.best is not None else None  # pyrefly: ignore
    return Checkpoint(path, state, load_file(path / TRAINED), load_file(path / OPTIMIZER))


def require_same_run(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs of the settings that may change what is learnt, in words.

    Raises:
        TrainingError: a setting that must be the same differs.
    """
    tuned = []
    before, after = {**LATER, **_flat(saved)}, _flat(now)
    for name in sorted({*before, *after}):
        free = any(name == one or name.startswith(f"{one}.") for one in FREE)
        if free or before.get(name) == after.get(name):
            continue
        if name in TUNED:
            was, now_is = json.dumps(before.get(name)), json.dumps(after.get(name))
            tuned.append(f"{name} was {was} and is {now_is} from here on")
        else:
            raise TrainingError(
                f"the run to go on with had {name} = {json.dumps(before.get(name))}, now it is "
                f"{json.dumps(after.get(name))}; give the same, or another output to begin anew"
            )
    return tuned


def _text(state: RunState) -> bytes:
    return json.dumps(asdict(state), ensure_ascii=False, indent=1).encode() + b"\n"


def _flat(mapping: Any, where: str = "") -> dict[str, Any]:
    """Values by dotted names."""
    if isinstance(mapping, Mapping):
        items = [(str(name), value) for name, value in mapping.items()]
    elif isinstance(mapping, list):
        items = [(str(number), value) for number, value in enumerate(mapping)]
    else:
        return {where: mapping}
    flat = {}
    for name, value in items:
        flat |= _flat(value, f"{where}.{name}" if where else name)
    return flat


def _faults(path: Path) -> str:
    """What is wrong with a checkpoint, or ""."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        if state["version"] != VERSION:
            return f"it is of version {state['version']}, not {VERSION}"
        for name, digest in state["files"].items():
            if _sha256(path / name) != digest:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        return f"{STATE} or a file it names cannot be read: {error}"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Where a run goes on."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from video_llama.errors import TrainingError
from video_llama.home import spelled_out
from video_llama.training.atomic import writing
from video_llama.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    RunState,
    read_checkpoint,
    require_same_run,
)
from video_llama.training.marks import validation_marks
from video_llama.training.metrics import METRICS
from video_llama.training.overrides import to_mapping
from video_llama.training.parallel import Processes
from video_llama.training.recipe import Recipe


def find_start(
    recipe: Recipe,
    processes: Processes,
    checkpoints: Checkpoints,
    tell: Callable[[str], object],
) -> Checkpoint | None:
    """The checkpoint to go on from; None to begin. The first process chooses for all.

    Raises:
        TrainingError: there is none where one is named, one where none may be, or it is of a run
            that would not go on as this one.
    """
    path = None
    with processes.together():
        if processes.is_first:
            checkpoints.clean()
            path = _choose(recipe, checkpoints, tell)
    path = processes.agree(path)
    if path is None:
        return None
    begun = read_checkpoint(path)
    tuned = require_same_run(begun.state.recipe, to_mapping(recipe))
    tell(f"going on from step {begun.state.step}, {path}")
    for change in tuned:
        tell(f"warning: {change}")
    return begun


def settle(
    begun: Checkpoint,
    recipe: Recipe,
    marks: Mapping[str, str],
    processes: Processes,
    checkpoints: Checkpoints,
    tell: Callable[[str], object],
) -> None:
    """Make the output that of the run which goes on from a checkpoint.

    Where one was named, those that do not lead to it are set aside, the figures with them. The
    best result so far is forgotten where later ones could not be compared with it.

    Raises:
        TrainingError: the output cannot be written to.
    """
    aside, fault = None, ""
    with processes.together(), writing(f"the folder {recipe.output_dir}"):
        if processes.is_first:
            if recipe.resume != "auto":
                aside = checkpoints.set_aside(begun)
            figures = recipe.output_dir / METRICS
            if aside is not None and figures.is_file():
                shutil.copy2(figures, aside)
            fault = _fault_of_best(begun.state, recipe, marks, checkpoints)
    if processes.agree(fault):
        begun.state.best, begun.state.measured = None, 0
    with processes.together(), writing(f"the folder {recipe.output_dir}"):
        if processes.is_first and (aside is not None or fault):
            checkpoints.note_best(begun.state)
    if aside is not None:
        tell(f"warning: checkpoints that do not lead to this one are set aside in {aside}")
    if fault:
        tell(f"warning: the best validation so far is forgotten: {fault}")


def _fault_of_best(
    state: RunState, recipe: Recipe, marks: Mapping[str, str], checkpoints: Checkpoints
) -> str:
    """Why the best result so far says nothing any more, or ""."""
    if state.best is None:
        return ""
    before, now = state.recipe["validation"], to_mapping(recipe.validation)
    changed = any(before[name] != now[name] for name in ("data", "samples"))
    if state.marks:
        changed = changed or validation_marks(state.marks) != validation_marks(marks)
    if changed:
        return "what is validated on has changed"
    kept = checkpoints.path(state.best[1]).is_dir()
    return "" if kept else f"its checkpoint, of step {state.best[1]}, is not in this output"


def _choose(recipe: Recipe, checkpoints: Checkpoints, tell: Callable[[str], object]) -> Path | None:
    if recipe.resume == "auto":
        path, told = checkpoints.latest()
        if told and path is None:
            raise TrainingError(
                f"none of the checkpoints in {checkpoints.folder} can be used: {'; '.join(told)}. "
                "Put them right, or move them away to begin anew"
            )
        for message in told:
            tell(f"warning: {message}")
        return path
    if recipe.resume != "never":
        return Path(spelled_out(recipe.resume))
    if checkpoints.steps():
        raise TrainingError(
            f"{recipe.output_dir} has checkpoints of an earlier run; give resume=auto to go on, "
            "or another output"
        )
    return None

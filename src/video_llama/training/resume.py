"""Where a run goes on."""

from collections.abc import Callable
from pathlib import Path

from video_llama.errors import TrainingError
from video_llama.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    read_checkpoint,
    require_same_run,
)
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
    require_same_run(begun.state.recipe, to_mapping(recipe))
    tell(f"going on from step {begun.state.step}, {path}")
    return begun


def _choose(recipe: Recipe, checkpoints: Checkpoints, tell: Callable[[str], object]) -> Path | None:
    if recipe.resume == "auto":
        path, told = checkpoints.latest()
        for message in told:
            tell(f"warning: {message}")
        return path
    if recipe.resume != "never":
        return Path(recipe.resume)
    if checkpoints.steps():
        raise TrainingError(
            f"{recipe.output_dir} has checkpoints of an earlier run; give resume=auto to go on, "
            "or another output"
        )
    return None

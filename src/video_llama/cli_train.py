"""`video-llama train`: a recipe and dotted settings to a run."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from video_llama.errors import VideoLlamaError
from video_llama.terminal import (
    loading,
    prepare_libraries,
    print_json,
    print_warnings,
    reporting,
    write,
)

if TYPE_CHECKING:
    from video_llama.training.recipe import Recipe
    from video_llama.training.trainer import Outcome


def train(
    *,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", hidden=True)],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", hidden=True)
    ] = (None),
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe with all settings, and do nothing.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Learn the first steps, keep nothing, print an estimate."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a model by a recipe.

    RECIPE is vision_stage1, vision_stage2, audio_stage1 or audio_stage2, the published stages, or a
    .toml or .json file; "base" in a file names the stage it begins with. NAME=VALUE changes one
    setting; values are JSON where they can be, else text. Progress goes to stderr.

    \b
    Example:
      video-llama train vision_stage1 data.0.path=captions.json data.0.media=images \\
          model.path=models/mine --dry-run
      video-llama train mine.toml schedule.peak=3e-5 cache=features output=runs/mine
      torchrun --nproc-per-node 8 -m video_llama train mine.toml parallel=fsdp

    \b
    Often set:
      data.0.path, .media, .format, .weight    what is learnt; see "video-llama data"
      validation.data.0.path, validation.every what is measured on the way
      model.path, .quantization                the model to begin with
      lora.rank, lora.targets                  adapters in the language model
      batch, accumulation, precision           samples of a step, over all processes
      schedule.peak, .steps_per_epoch, .epochs rates and steps
      cache=DIR                                encode media once, then train without encoders
      checkpoint.every, export.kind            "model", "part" or "none"
      output, resume                           runs/NAME; "auto", "never" or a checkpoint

    The output gets metrics.jsonl, quarantine.jsonl with samples that cannot be used, checkpoints,
    and at the end the folder "model", which can be asked. The same command goes on with a run that
    was broken off. Ctrl-C and SIGTERM finish the step and write a checkpoint; exit status 1 then.
    """
    with reporting(as_json and _is_first()):
        with loading():
            from video_llama.training.presets import load_recipe

        made = load_recipe(recipe, settings or [])
        if show:
            from video_llama.training.presets import recipe_text

            write(recipe_text(made), sys.stdout)
        elif dry_run:
            _rehearse(made, as_json)
        else:
            _train(made, as_json)


def _rehearse(recipe: "Recipe", as_json: bool) -> None:
    prepare_libraries()
    from video_llama.training.rehearsal import rehearse

    estimate = rehearse(recipe)
    if not _is_first():
        return
    if as_json:
        print_json(estimate.to_dict())
    else:
        write(estimate.to_text(), sys.stdout)


def _train(recipe: "Recipe", as_json: bool) -> None:
    prepare_libraries()
    from video_llama.training.trainer import train as run

    try:
        outcome = run(recipe, sys.stderr)
    except VideoLlamaError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _leave(error, as_json)
        raise
    if _is_first():
        _tell(outcome, as_json)
    if outcome.stopped_by:
        raise SystemExit(1)


def _tell(outcome: "Outcome", as_json: bool) -> None:
    if outcome.stopped_by:
        write(
            f"stopped by {outcome.stopped_by} after step {outcome.step} of {outcome.steps}; "
            f"{outcome.checkpoint} is written, and the same command goes on from there\n",
            sys.stderr,
        )
    if as_json:
        print_json(outcome.to_dict())
    elif not outcome.stopped_by:
        best = f", best at step {outcome.best[1]}" if outcome.best else ""
        what = outcome.model or outcome.checkpoint
        write(f"{what}: {outcome.step:,} steps done{best}\n", sys.stdout)
    if outcome.rejected:
        plural = "sample" if outcome.rejected == 1 else "samples"
        told = f"{outcome.rejected:,} {plural} could not be used"
        print_warnings([f"{told}; quarantine.jsonl says which and why"])


def _leave(error: VideoLlamaError, as_json: bool) -> None:
    """End a process whose connections to others are broken: an orderly end could wait for them."""
    rank = os.environ.get("RANK", "0")
    write(f"error: process {rank}: {error}\n", sys.stderr)
    if as_json and _is_first():
        print_json({"error": {"type": type(error).__name__, "message": str(error)}})
    sys.stdout.flush()
    os._exit(1)


def _is_first() -> bool:
    """Whether this is the process that prints."""
    return os.environ.get("RANK", "0") == "0"

"""From the name of a preset or a file to a recipe.

A file is TOML or JSON. `base = "vision_stage1"` in it takes what it does not say from that preset.
"""

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_llama.errors import OptionError
from video_llama.training.overrides import build, merge, override, to_mapping
from video_llama.training.recipe import MediaSettings, OptimizerSettings, Recipe
from video_llama.training.stages import STAGES, Stage

INSTRUCTION_TOKENS = 512  # of a sample of instructions, as published

BASE = "base"
SUFFIXES = (".toml", ".json")


def preset(stage: Stage) -> Recipe:
    """A published stage as a recipe; what it learns from is still to be named.

    Captions are learnt from random frames and boxes, instructions from evenly spaced whole frames;
    for the latter a file of captions is MiniGPT-4's, whose texts answer an instruction.
    """
    captions = stage.data == "captions"
    return Recipe(
        name=stage.name,
        branch=stage.branch,
        modules=stage.modules,
        schedule=stage.schedule,
        batch=stage.batch,
        captions="captions" if captions else "descriptions",
        media=MediaSettings(
            sampling="head_tail" if captions else "uniform",
            crop=captions,
            max_length=None if captions else INSTRUCTION_TOKENS,
        ),
        optimizer=OptimizerSettings(weight_decay=stage.weight_decay, betas=stage.betas),
    )


def load_recipe(source: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file, with dotted settings on top.

    Raises:
        OptionError: there is none, or a setting is not accepted.
    """
    mapping = to_mapping(preset(STAGES[source])) if source in STAGES else read_recipe(Path(source))
    for setting in settings:
        override(mapping, setting)
    return build(Recipe, mapping)


def recipe_text(recipe: Recipe) -> str:
    """All settings of a recipe as JSON, which can be given as a file again."""
    return json.dumps(to_mapping(recipe), ensure_ascii=False, indent=2) + "\n"


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings of a file, and those of its base.

    Raises:
        OptionError: it cannot be read, or its base is unknown.
    """
    given = _parse(path)
    base = given.pop(BASE, None)
    if base is None:
        return {"name": path.stem, **given}
    if not isinstance(base, str) or base not in STAGES:
        raise OptionError(f"base is one of {', '.join(STAGES)}; not {base!r}")
    return merge(to_mapping(preset(STAGES[base])), {"name": path.stem, **given})


def _parse(path: Path) -> dict[str, Any]:
    if path.suffix not in SUFFIXES or not path.is_file():
        near = difflib.get_close_matches(str(path), STAGES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise OptionError(
            f"there is no recipe {str(path)!r}; give {', '.join(STAGES)}, "
            f"or a .toml or .json file{hint}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        given = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path.name} is not {path.suffix[1:].upper()}: {error}") from None
    except OSError as error:
        raise OptionError(f"{path.name} cannot be read: {error.strerror}") from None
    if not isinstance(given, dict):
        raise OptionError(f"{path.name} must hold named settings")
    return given

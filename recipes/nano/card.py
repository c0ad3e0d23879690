"""Writes the model card of nano from its measured figures.

    python -m recipes.nano.card MODEL_DIR WORLD.json [--control WORLD.json | --claim TABLE.json]

WORLD.json is what `video-llama eval world` wrote, of the model and of the control that does not
share a space with sounds; TABLE.json what `recipes.reproduce.table` did, of a model that has learnt
photographs and recordings.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from recipes.reproduce.table import Row, table
from video_llama.data.world.things import AUDIBLE, PHOTOGRAPHED, SOUNDING, THINGS

FOLDER = Path(__file__).parent
MADE = "One run of `recipes/nano`."
HEARD = ("audible", "sound of")  # kinds of questions about sound alone


def parts_of(weights: Path) -> dict[str, int]:
    """Parameters by module."""
    sizes: dict[str, int] = {}
    with safe_open(weights, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a dict)
            name = ".".join(key.split(".")[:2])
            name = "language_model" if name.startswith("language_model") else name
            shape = file.get_slice(key).get_shape()
            count = 1
            for side in shape:
                count *= side
            sizes[name] = sizes.get(name, 0) + count
    return sizes


def card(
    directory: Path,
    world: dict[str, Any],
    *,
    control: dict[str, Any] | None = None,
    claim: dict[str, Any] | None = None,
    made: str = MADE,
) -> str:
    """The text of the card: with `control` of a model of drawings, with `claim` of photographs."""
    if (control is None) == (claim is None):
        raise ValueError("a card wants either a control or the table of the claim")
    parts = parts_of(directory / "model.safetensors")
    metrics = world["metrics"]
    rows = [
        f"| {kind} | {r['n']} | {_share(r['accuracy'])} | {_share(r['english'])} "
        f"| {_share(r['chinese'])} | {_share(r['chance'])} |"
        for kind, r in metrics["by_kind"].items()
    ]
    counts = {
        "things": len(THINGS),
        "sounding": len(SOUNDING),
        "photographed": len(PHOTOGRAPHED),
        "audible": len(AUDIBLE),
    }
    if claim is None:
        about, measured = "drawn", {"control": "\n".join(_beside(metrics, control["metrics"]))}
    else:
        about, measured = "photographed", _measured(claim)
    known, heard = (
        _text(f"card_{part}_{about}.md").rstrip("\n").format(**counts, **measured)
        for part in ("data", "heard")
    )
    return _text("card_template.md").format(
        known=known,
        heard=heard,
        made=made,
        licence="apache-2.0" if claim is None else "other",
        parameters=sum(parts.values()),
        megabytes=(directory / "model.safetensors").stat().st_size / 1e6,
        parts="\n".join(f"| `{name}` | {count:,} |" for name, count in parts.items()),
        count=len({answer["id"].split("/")[0] for answer in world["answers"]}),
        questions=world["n"],
        rows="\n".join(rows),
        all=_share(metrics["accuracy"]),
        yes_said=_share(metrics["yes_share"]),
        yes_true=_share(metrics["yes_true"]),
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _beside(metrics: dict[str, Any], control: dict[str, Any]) -> list[str]:
    """Rows of what is asked about sounds."""
    kinds, others = metrics["by_kind"], control["by_kind"]
    return [
        f"| {kind} | {kinds[kind]['n']} | {_share(kinds[kind]['accuracy'])} "
        f"| {_share(others[kind]['accuracy'])} | {_share(kinds[kind]['chance'])} |"
        for kind in kinds
        if kind.startswith(HEARD)
    ]


def _measured(claim: dict[str, Any]) -> dict[str, Any]:
    return {
        "table": table([Row(**row) for row in claim["rows"]]),
        "seeds": max(claim["seeds"].values()),
    }


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def main() -> None:
    """Write the card beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("world", type=Path)
    parser.add_argument("--made", default=MADE, help="how, where that is not one run of the recipe")
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("--control", type=Path)
    other.add_argument("--claim", type=Path)
    arguments = parser.parse_args()
    world, control, claim = (
        json.loads(path.read_text(encoding="utf-8")) if path else None
        for path in (arguments.world, arguments.control, arguments.claim)
    )
    (arguments.model / "README.md").write_text(
        card(arguments.model, world, control=control, claim=claim, made=arguments.made) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()

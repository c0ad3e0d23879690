"""Writes the model card of nano from its measured figures.

python -m recipes.nano.card MODEL_DIR FIGURES.json CONTROL.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

TEMPLATE = Path(__file__).with_name("card_template.md")


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


def card(directory: Path, figures: dict[str, Any], control: dict[str, Any]) -> str:
    """The text of the card."""
    parts = parts_of(directory / "model.safetensors")
    table = figures["questions"]
    rows = [
        f"| {kind} | {r['n']} | {r['accuracy']:.3f} | {r['english']:.3f} | {r['chinese']:.3f} "
        f"| {r['chance']:.3f} |"
        for kind, r in table.items()
    ]
    heard = [kind for kind in table if kind.startswith(("sound", "audible"))]
    claim = [
        f"| {kind} | {table[kind]['n']} | {table[kind]['accuracy']:.3f} "
        f"| {control['questions'][kind]['accuracy']:.3f} | {table[kind]['chance']:.3f} |"
        for kind in heard
    ]
    return TEMPLATE.read_text(encoding="utf-8").format(
        things=18,
        parameters=sum(parts.values()),
        megabytes=(directory / "model.safetensors").stat().st_size / 1e6,
        parts="\n".join(f"| `{name}` | {count:,} |" for name, count in parts.items()),
        count=figures["scenes"],
        first=figures["first_seed"],
        questions=sum(row["n"] for row in table.values()),
        rows="\n".join(rows),
        claim="\n".join(claim),
        all=figures["all"],
        yes_said=figures["yes_said"],
        yes_true=figures["yes_true"],
    )


if __name__ == "__main__":
    model, measured, broken = map(Path, sys.argv[1:4])
    read = [json.loads(path.read_text(encoding="utf-8")) for path in (measured, broken)]
    (model / "README.md").write_text(card(model, *read), encoding="utf-8")

"""The drawn world's table, of one build of nano or the mean of several.

    python -m recipes.reproduce.world WORLD.json [...] [--json FILE]

WORLD.json is what `video-llama eval world` wrote. Prints a row for each kind of question: the share
of right answers, of several builds their mean with the lowest and highest, and chance. FILE gets
the same with what each was measured with, and without the answers.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from recipes.reproduce.parts import joined
from recipes.reproduce.table import provenance


def table(metrics: dict[str, Any]) -> str:
    """The rows in Markdown."""
    rows = [("", "n", "right", "chance"), ("---",) * 4]
    rows += [
        (kind, str(row["n"]), _spread(row["accuracy"]), f"{row['chance']:.3f}")
        for kind, row in metrics["by_kind"].items()
    ]
    count = sum(row["n"] for row in metrics["by_kind"].values())
    rows.append(("all", str(count), _spread(metrics["accuracy"]), ""))
    rows.append(("yes said, where yes or no is asked", "", _spread(metrics["yes_share"]), ""))
    rows.append(("yes true there", "", _spread(metrics["yes_true"]), ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _spread(share: Any) -> str:
    if not isinstance(share, dict):
        return f"{share:.3f}"
    return f"{share['mean']:.3f} ({share['lowest']:.3f} to {share['highest']:.3f})"


def main() -> None:
    """Print the table, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in given.results]
    metrics = joined([report["metrics"] for report in reports])
    print(table(metrics))
    if given.json:
        measured = [provenance(report) for report in reports]
        found = {"builds": len(reports), "measured": measured, "metrics": metrics}
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

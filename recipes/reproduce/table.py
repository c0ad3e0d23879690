"""The table and the plot of the claim, from the results of `video-llama eval claim`.

    python -m recipes.reproduce.table build/claims [--json FILE] [--plot FILE]

Each folder VARIANT-SEED below the given one holds a `claim.json`. Prints one table: a row for each
thing measured, its number of questions, each variant as the mean of its seeds with the lowest and
highest, and chance. What it is shares of may differ: then n is one for each variant.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from recipes.reproduce.variants import VARIANTS

Report = dict[str, Any]

# What a row says, the kind of question it is taken from, and which measure of that kind.
ROWS: tuple[tuple[str, str, str], ...] = (
    ("seen: photograph, commonest things", "picture", "micro"),
    ("seen: photograph, all things", "picture of anything", "micro"),
    ("seen: motion of a cut-out", "motion", "micro"),
    ("seen: moving cut-out", "moving thing", "micro"),
    ("seen: moving cut-out and its motion", "thing and motion", "micro"),
    ("heard", "sound", "micro"),
    ("heard, mean over things", "sound", "macro"),
    ("heard, asked in English", "sound", "english"),
    ("heard, asked in Chinese", "sound", "chinese"),
    ("seen and heard, agreeing", "seen and heard, agreeing", "micro"),
    ("seen and heard, contradicting", "seen and heard, contradicting", "micro"),
    ("do they match? they agree", "match, agreeing", "micro"),
    ("do they match? they contradict", "match, contradicting", "micro"),
)
BOTH_HALVES = ("match, agreeing", "match, contradicting")
PLOTTED = ("heard", "heard, mean over things", "seen and heard, agreeing")
PLOTTED += ("seen and heard, contradicting", "do they match? both halves")
TITLES = {
    "pictures": "trained on pictures",
    "turned": "on turned pictures",
    "sounds": "on sounds",
}
COLOURS = {"pictures": "#2f6fb7", "turned": "#b9b9b9", "sounds": "#e0a030"}


@dataclass(frozen=True)
class Row:
    """One line of the table: the shares of every variant, one for each seed.

    `n` is the number of questions, or one for each variant where they are not as many: the mean of
    its seeds. A share of nothing is None.
    """

    title: str
    n: tuple[int, ...]
    chance: float | None
    shares: Mapping[str, Sequence[float | None]]


def read_reports(folder: Path, seeds: Collection[int] | None = None) -> dict[str, list[Report]]:
    """The results of each variant, by seed: of these seeds, or of all there are."""
    found: dict[str, list[tuple[int, Report]]] = defaultdict(list)
    for path in sorted(folder.glob("*/claim.json")):
        name = re.fullmatch(r"([a-z]+)-(\d+)", path.parent.name)
        if name and name[1] in VARIANTS and (seeds is None or int(name[2]) in seeds):
            report = json.loads(path.read_text(encoding="utf-8"))
            found[name[1]].append((int(name[2]), report))
    if not found:
        sys.exit(f"error: {folder} has no VARIANT-SEED/claim.json; run `video-llama eval claim`")
    return {
        variant: [report for _, report in sorted(found[variant], key=lambda pair: pair[0])]
        for variant in VARIANTS
        if variant in found
    }


def provenance(report: Report) -> dict[str, Any]:
    """What a result was measured with and on: checksums of the model and of the data, software."""
    settings = report["settings"]
    names = ("sha256", "configuration_sha256", "dtype", "data")
    return {name: settings[name] for name in names} | {
        name: report[name] for name in ("software", "device")
    }


def make_rows(reports: Mapping[str, Sequence[Report]]) -> list[Row]:
    """The lines of the table that the reports have answers for."""
    first = next(iter(reports.values()))[0]["metrics"]
    kinds = first["by_kind"]

    def shares(read: Callable[[Report], float | None]) -> dict[str, list[float | None]]:
        return {
            variant: [read(report["metrics"]) for report in several]
            for variant, several in reports.items()
        }

    rows = [
        Row(
            title,
            (kinds[kind]["n"] // (2 if name in ("english", "chinese") else 1),),
            kinds[kind]["macro_chance" if name == "macro" else "chance"],
            shares(lambda metrics, kind=kind, name=name: metrics["by_kind"][kind][name]),
        )
        for title, kind, name in ROWS
        if kind in kinds
    ]
    if all(kind in kinds for kind in BOTH_HALVES):
        count = sum(kinds[kind]["n"] for kind in BOTH_HALVES)
        balanced = shares(lambda metrics: metrics["match_balanced"])
        rows.append(Row("do they match? both halves", (count,), 0.5, balanced))
    if "sound" in kinds:
        counts = [
            round(mean(report["metrics"]["thing_given"] for report in several))
            for several in reports.values()
        ]
        verbs = shares(lambda metrics: metrics["verb_given_thing"])
        rows.append(Row("right verb, where the thing is right", tuple(counts), None, verbs))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    variants = list(rows[0].shares)
    head = ["", "n", *(f"{TITLES[variant]}" for variant in variants), "chance"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [_spread(_known(row, variant)) for variant in variants]
        chance = "" if row.chance is None else f"{row.chance:.3f}"
        lines.append([row.title, _count(row), *cells, chance])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(row: Row) -> str:
    return ", ".join(map(str, row.n))


def _known(row: Row, variant: str) -> list[float]:
    return [share for share in row.shares[variant] if share is not None]


def _spread(known: Sequence[float]) -> str:
    if not known:
        return "of none"
    around = f" ({min(known):.3f} to {max(known):.3f})" if min(known) < max(known) else ""
    return f"{mean(known):.3f}{around}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars for what needs ears: the mean of each variant, its seeds as dots, chance as a line."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.title in PLOTTED]
    variants = list(rows[0].shares)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(variants)
    for number, variant in enumerate(variants):
        left = [place - 0.4 + (number + 0.5) * width for place in range(len(shown))]
        heights = [mean(_known(row, variant)) for row in shown]
        colour, label = COLOURS[variant], f"audio branch {TITLES[variant]}"
        axes.bar(left, heights, 0.92 * width, color=colour, label=label)
        for x, row in zip(left, shown, strict=True):
            several = _known(row, variant)
            axes.plot([x] * len(several), several, "o", color="black", markersize=3, alpha=0.7)
    for place, row in enumerate(shown):
        if row.chance is not None:
            label = "chance" if place == 0 else None
            ends = [place - 0.42, place + 0.42]
            axes.plot(ends, [row.chance] * 2, "--", color="crimson", linewidth=1.2, label=label)
    titles = [row.title.replace(", ", ",\n").replace("? ", "?\n") for row in shown]
    axes.set_xticks(
        range(len(shown)),
        [f"{title}\nn = {_count(row)}" for title, row in zip(titles, shown, strict=True)],
        fontsize=8,
    )
    axes.set(ylim=(0, 1), ylabel="share of right answers")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", help="all that are there unless given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    reports = read_reports(arguments.results, arguments.seeds)
    rows = make_rows(reports)
    seeds = {variant: len(several) for variant, several in reports.items()}
    print(f"seeds: {', '.join(f'{TITLES[name]} {count}' for name, count in seeds.items())}\n")
    print(table(rows))
    if arguments.json:
        measured = {name: [provenance(one) for one in reports[name]] for name in reports}
        found = {"seeds": seeds, "measured": measured, "rows": [asdict(row) for row in rows]}
        text = json.dumps(found, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()

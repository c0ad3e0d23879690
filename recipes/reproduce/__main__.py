"""The whole table of the claim, from a finished build of nano, or several of other seeds.

    python -m recipes.reproduce --work build/nano --photographs SHARDS [--out build/claim]

OUT/media            what is asked about (`make`)
OUT/models/V-SEED    audio branches (`variants`), each with its `claim.json` (`video-llama eval`)
OUT/claim.json, .png the table and the plot (`table`), which is printed too

What is there already is kept, so that a run that was broken off goes on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from recipes.reproduce.variants import SEEDS, VARIANTS, builds_of


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, nargs="+", required=True, help="builds of nano")
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/claim"))
    parser.add_argument("--seeds", type=int, nargs="+", help=f"of one build; {SEEDS} unless given")
    parser.add_argument("--split", default="test", help="val to try things on")
    given = parser.parse_args()
    seeds = builds_of(given.work, given.seeds)
    media, models = given.out / "media", given.out / "models"
    run("recipes.reproduce.make", shards=given.photographs, out=media, split=given.split)
    run(
        "recipes.reproduce.variants",
        "--work",
        *map(str, given.work),
        *(["--seeds", *map(str, given.seeds)] if given.seeds else []),
        photographs=given.photographs,
        out=models,
    )
    for seed in seeds:
        for variant in VARIANTS:
            model = models / f"{variant}-{seed}"
            run("video_llama", "eval", "claim", model=model, data=media, out=model)
    results = {"json": given.out / "claim.json", "plot": given.out / "claim.png"}
    run("recipes.reproduce.table", str(models), "--seeds", *map(str, seeds), **results)


def run(module: str, *arguments: str, **options: object) -> None:
    """Run a module; whatever ends it ends this too."""
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, "-m", module, *arguments, *flags], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()

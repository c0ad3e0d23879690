"""Builds nano from nothing: encoders and language model first, then the branches.

    python -m recipes.nano.train --work build/nano --out build/nano/model

Every step leaves a file in the work folder and is skipped when that is there, so a run that was
broken off goes on where it stopped, with other random numbers than an unbroken one. `--threads`
sets how many cores to use.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from recipes.nano.branches import train_audio_branch, train_vision_branch
from recipes.nano.build import new_model, new_processor
from recipes.nano.joint_space import train_imagebind_pictures, train_imagebind_sounds
from recipes.nano.language import load_language, train_language
from recipes.nano.loop import load, save
from recipes.nano.material import Material, unpack
from recipes.nano.settings import work_dir
from recipes.nano.vision import load_vision, train_vision

MAX_SHIPPED_BYTES = 40_000_000


def once(path: Path, make: Callable[[], object], use: Callable[[], object] | None = None) -> None:
    """Make what `path` stands for, or use what is there."""
    if not path.is_file():
        started = time.time()
        make()
        print(json.dumps({"step": path.stem, "seconds": round(time.time() - started)}), flush=True)
    elif use is not None:
        use()


def build(material: Material, out: Path) -> None:
    """All steps in order."""
    work = material.work
    unpack(material)
    processor = new_processor(material)
    model = new_model(processor)
    branch, listener = model.vision_branch, model.audio_branch
    once(
        work / "language_model.pt",
        lambda: train_language(model, processor, material),
        lambda: load_language(model, work),
    )
    model.language_model.requires_grad_(False).eval()
    once(
        work / "query_tokens.pt",
        lambda: train_vision(model, material),
        lambda: load_vision(model, material),
    )
    once(
        work / "imagebind_vision.pt",
        lambda: train_imagebind_pictures(model, material),
        lambda: load(work, "imagebind_vision", listener.imagebind.vision),
    )
    once(
        work / "imagebind.pt",
        lambda: train_imagebind_sounds(model, material),
        lambda: load(work, "imagebind", listener.imagebind),
    )
    once(
        work / "vision_branch.pt",
        lambda: (
            train_vision_branch(model, processor, material),
            save(work, "vision_branch", branch),
        ),
        lambda: load(work, "vision_branch", branch),
    )
    once(
        work / "audio_branch.pt",
        lambda: (
            train_audio_branch(model, processor, material),
            save(work, "audio_branch", listener),
        ),
        lambda: load(work, "audio_branch", listener),
    )
    model.requires_grad_(True).eval().half().to("cpu").save_pretrained(out)
    processor.save_pretrained(out)
    size = sum(path.stat().st_size for path in out.iterdir())
    if size > MAX_SHIPPED_BYTES:
        raise SystemExit(f"error: the model has {size} bytes, more than may be shipped")
    print(json.dumps({"model": str(out), "bytes": size, "parameters": model.num_parameters()}))


def main() -> None:
    """Build, showing what is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/nano"))
    parser.add_argument("--out", type=Path, default=Path("build/nano/model"))
    parser.add_argument("--photographs", type=Path, help="folder of shards; without it, drawings")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.fresh and arguments.work.is_dir():
        shutil.rmtree(arguments.work)
    build(Material(work_dir(arguments.work), arguments.photographs), arguments.out)


if __name__ == "__main__":
    main()

"""Builds nano from nothing: encoders and language model first, then the branches.

    python -m recipes.nano.train --work build/nano --out build/nano/model

Every step leaves a file in the work folder and is skipped when that is there, so a run that was
broken off goes on where it stopped, with other random numbers than an unbroken one. A work folder
belongs to the photographs, or the drawings alone, and the seed that it was begun with. Another
`--seed` trains everything with other random numbers, on the same rendered scenes. On a CPU two
steps that do not need each other are trained beside each other (`STEPS`). `--threads` sets how many
cores to use.
"""

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypedDict

import torch

from recipes import made_from
from recipes.nano.branches import VisionData, train_audio_branch, train_vision_branch
from recipes.nano.build import new_model, new_processor
from recipes.nano.joint_space import train_imagebind_pictures, train_imagebind_sounds
from recipes.nano.language import load_language, train_language
from recipes.nano.loop import DEVICE, load, save
from recipes.nano.material import Material, unpack
from recipes.nano.naming import load_naming, train_naming
from recipes.nano.settings import SEED, work_dir
from recipes.nano.vision import load_vision, train_vision
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor

MAX_SHIPPED_BYTES = 40_000_000
AT_ONCE = 2  # steps, on a CPU


class MadeFrom(TypedDict):
    """What a work folder belongs to."""

    photographs: dict[str, int]  # bytes of every shard
    seed: int


def claim(material: Material) -> None:
    """Note what a new work folder is made from; refuse one that is made from something else."""
    photographs = made_from.sizes(material.folder) if material.folder else {}
    now: MadeFrom = {"photographs": photographs, "seed": material.seed}
    advice = "give another folder with --work, or --fresh to forget what is there"
    made_from.claim(material.work, now, _told, advice)


def seed_of(work: Path) -> int:
    """The seed of a build.

    Raises:
        SystemExit: the folder is none.
    """
    made: MadeFrom | None = made_from.read(work)  # pyrefly: ignore[bad-assignment]
    if made is None:
        raise SystemExit(f"error: {work} is no build: recipes.nano.train makes one")
    return made["seed"]


def _told(made: MadeFrom) -> str:
    shards = made["photographs"]
    size = sum(shards.values())
    of = f"{len(shards)} shards of photographs, {size:,} bytes" if shards else "drawings alone"
    return f"{of}, seed {made['seed']}"


def once(path: Path, make: Callable[[], object], use: Callable[[], object] | None = None) -> None:
    """Make what `path` stands for, or use what is there."""
    if not path.is_file():
        started = time.time()
        make()
        print(json.dumps({"step": path.stem, "seconds": round(time.time() - started)}), flush=True)
    elif use is not None:
        use()


def make_language(material: Material) -> None:
    """The language model."""
    processor = new_processor(material)
    once(
        material.work / "language_model.pt",
        lambda: train_language(new_model(processor, material.seed), processor, material),
    )


def make_naming(material: Material) -> None:
    """The frame encoder, as far as names go."""
    once(
        material.work / "naming.pt",
        lambda: train_naming(new_model(new_processor(material), material.seed), material),
    )


def make_vision(material: Material) -> None:
    """The frame encoder with the image Q-Former."""
    model = new_model(new_processor(material), material.seed)
    load_naming(model, material)
    once(
        material.work / "query_tokens.pt",
        lambda: train_vision(model, material),
        lambda: load_vision(model, material),
    )
    VisionData(model, material)  # what the vision branch is trained on, encoded


def make_joint_space(material: Material) -> None:
    """Pictures, names and sounds in one space."""
    model = new_model(new_processor(material), material.seed)
    load_naming(model, material)
    once(
        material.work / "imagebind_vision.pt",
        lambda: train_imagebind_pictures(model, material),
        lambda: load(material.work, "imagebind_vision", model.audio_branch.imagebind.vision),
    )
    once(material.work / "imagebind.pt", lambda: train_imagebind_sounds(model, material))


def frozen_model(
    processor: VideoLlamaProcessor, material: Material
) -> VideoLlamaForConditionalGeneration:
    """The trained language model and frame encoder, with new branches."""
    model = new_model(processor, material.seed)
    load_language(model, material.work)
    load_vision(model, material)
    model.language_model.requires_grad_(False).eval()
    return model


def make_vision_branch(material: Material) -> None:
    """Frame positions, Video Q-Former and projector."""

    def make() -> None:
        processor = new_processor(material)
        model = frozen_model(processor, material)
        train_vision_branch(model, processor, material)
        save(material.work, "vision_branch", model.vision_branch)

    once(material.work / "vision_branch.pt", make)


def make_audio_branch(material: Material) -> None:
    """Sound positions, Audio Q-Former and projector."""

    def make() -> None:
        processor = new_processor(material)
        model = frozen_model(processor, material)
        load(material.work, "imagebind", model.audio_branch.imagebind)
        train_audio_branch(model, processor, material)
        save(material.work, "audio_branch", model.audio_branch)

    once(material.work / "audio_branch.pt", make)


def ready(threads: int) -> None:
    """A process of `run_steps` has its share of the cores, and ends with the one that began it."""
    torch.set_num_threads(threads)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


Step = Callable[[Material], None]
# Each with those that it needs; the longest way first.
STEPS: dict[Step, tuple[Step, ...]] = {
    make_naming: (),
    make_language: (),
    make_vision: (make_naming,),
    make_joint_space: (make_naming,),
    make_vision_branch: (make_language, make_vision),
    make_audio_branch: (make_language, make_vision, make_joint_space),
}


def run_steps(steps: dict[Step, tuple[Step, ...]], material: Material, threads: int) -> None:
    """Every step after those that it needs; on a CPU with several cores two at a time, each in a
    process with half of them."""
    if DEVICE.type != "cpu" or threads < AT_ONCE:
        for step in steps:
            step(material)
        return
    waiting, done = dict(steps), set()
    running: dict[Future[None], Step] = {}
    with ProcessPoolExecutor(
        AT_ONCE, get_context("spawn"), initializer=ready, initargs=(threads // AT_ONCE,)
    ) as pool:
        while waiting or running:
            able = [step for step, needs in waiting.items() if done.issuperset(needs)]
            for step in able[: AT_ONCE - len(running)]:
                del waiting[step]
                running[pool.submit(step, material)] = step
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(finished)
                if (failed := finished.exception()) is not None:
                    for other in running.values():  # what it has made by then is kept
                        print(
                            f"{step.__name__}: {failed}; {other.__name__} is finished first",
                            file=sys.stderr,
                            flush=True,
                        )
                    raise failed
                done.add(step)


def build(material: Material, out: Path, threads: int = 1) -> None:
    """All steps in order; `threads` are shared by those that do not need each other."""
    started = time.time()
    claim(material)
    unpack(material)
    processor = new_processor(material)
    run_steps(STEPS, material, threads)
    model = new_model(processor, material.seed)
    load_language(model, material.work)
    load(material.work, "vision_branch", model.vision_branch)
    load(material.work, "audio_branch", model.audio_branch)
    model.requires_grad_(True).eval().half().to("cpu").save_pretrained(out)
    processor.save_pretrained(out)
    size = sum(path.stat().st_size for path in out.iterdir())
    if size > MAX_SHIPPED_BYTES:
        raise SystemExit(f"error: the model has {size} bytes, more than may be shipped")
    facts = {"model": str(out), "bytes": size, "parameters": model.num_parameters()}
    print(json.dumps({**facts, "seconds": round(time.time() - started)}), flush=True)


def main() -> None:
    """Build, showing what is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/nano"))
    parser.add_argument("--out", type=Path, default=Path("build/nano/model"))
    parser.add_argument("--photographs", type=Path, help="folder of shards; without it, drawings")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.fresh and arguments.work.is_dir():
        shutil.rmtree(arguments.work)
    material = Material(work_dir(arguments.work), arguments.photographs, arguments.seed)
    build(material, arguments.out, arguments.threads)


if __name__ == "__main__":
    main()

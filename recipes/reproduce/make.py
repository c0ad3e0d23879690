"""Writes the set of real things that the claim is measured on, from the test split of labelled
shards.

    python -m recipes.reproduce.make --shards SHARDS --out build/claim

picture   photographs of the 25 things there are most of in the training split
any       photographs of everything there is a word for
sound     every recording
moving    cut-outs that move in each of the seven ways, over photographed grounds
both      a photograph and a recording, of the same thing or of two

A folder belongs to the shards and the split it was made from; one that is finished is kept.
"""

import argparse
import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recipes import made_from
from video_llama.data.labelled import SPLITS, Content, Labelled, Split, read_labelled
from video_llama.data.world.photographs import (
    PhotographLook,
    WholePhotograph,
    pictured,
    recorded,
)
from video_llama.data.world.scene import Group, Scene
from video_llama.data.world.things import MOTIONS, NAMED
from video_llama.data.world.write import write_scene
from video_llama.evaluation.tasks.claim import LISTING
from video_llama.media.reader import load_media
from video_llama.whole_file import whole_file

SEED = 0
COMMON, PER_COMMON = 25, 24  # things, and photographs of each at most
PER_THING = 6
MOVING_THINGS = 19
BOTH = 120
SECONDS, RATE = 4.0, 16_000

Items = Mapping[str, Sequence[Labelled]]


def main() -> None:
    """Write the files and their listing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/claim"))
    parser.add_argument("--split", choices=SPLITS, default="test", help="val to try things on")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    now = {"shards": made_from.sizes(arguments.shards), "split": arguments.split}
    made_from.claim(arguments.out, now, _told, "give another folder with --out")
    if (arguments.out / LISTING).is_file():
        return
    pictures = by_name(arguments.shards, "images", arguments.split, pictured)
    sounds = by_name(arguments.shards, "sounds", arguments.split, recorded)
    counts = Counter(
        name
        for item in read_labelled(arguments.shards, "images", "train")
        if (name := pictured(item.label))
    )
    common = [name for name, _ in counts.most_common() if len(pictures.get(name, ())) > 1][:COMMON]
    rows = [
        *photographs(pictures, common, PER_COMMON, "picture", arguments.out),
        *photographs(pictures, list(pictures), PER_THING, "any", arguments.out),
        *recordings(sounds, arguments.out),
        *moving(pictures, arguments.out),
        *both(pictures, sounds, arguments.out),
    ]
    lines = [json.dumps(row) for row in rows]
    with whole_file(arguments.out / LISTING) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(Counter(row["part"] for row in rows)))


def _told(made: Mapping[str, Any]) -> str:
    size = sum(made["shards"].values())
    return f"the {made['split']} split of {len(made['shards'])} shards, {size:,} bytes"


def by_name(
    shards: Path, content: Content, split: Split, name_of: Callable[[str], str | None]
) -> dict[str, list[Labelled]]:
    """Items of a split by the world's names, in a shuffled order that is always the same."""
    found: dict[str, list[Labelled]] = defaultdict(list)
    for item in read_labelled(shards, content, split):
        name = name_of(item.label)
        if name is not None:
            found[name].append(item)
    for name, items in found.items():
        random.Random(f"claim/{content}/{name}").shuffle(items)
    return dict(sorted(found.items()))


def row(part: str, file: str, scene: Scene) -> dict[str, object]:
    """A line of the listing."""
    facts = {name: value for name, value in scene.facts().items() if name != "sound_matches"}
    return {"part": part, "file": file, "seconds": scene.seconds, "seed": scene.seed, **facts}


def photographs(
    pictures: Items, names: Sequence[str], most: int, part: str, out: Path
) -> Iterator[dict[str, object]]:
    """Whole photographs, as they are in the shards."""
    for name in names:
        for item in pictures[name][:most]:
            file = f"{item.key}.{item.suffix}"
            (out / file).write_bytes(item.data)
            yield row(part, file, Scene((Group(name, None),), seconds=0.0, seed=seed_of(item.key)))


def recordings(sounds: Items, out: Path) -> Iterator[dict[str, object]]:
    """Recordings, as they are in the shards."""
    for name, items in sounds.items():
        for item in items:
            file = f"{item.key}.{item.suffix}"
            (out / file).write_bytes(item.data)
            scene = Scene((), sound=name, seconds=5.0, seed=seed_of(item.key))
            yield row("sound", file, scene)


def moving(pictures: Items, out: Path) -> Iterator[dict[str, object]]:
    """Each way of moving of each of the things with the most large photographs."""
    large = {
        name: [item for item in items if max(open_picture(item).size) > 32]
        for name, items in pictures.items()
        if not NAMED[name].scenery
    }
    chosen = sorted(large, key=lambda name: (-len(large[name]), name))[:MOVING_THINGS]
    grounds = {name: items for name, items in pictures.items() if NAMED[name].scenery}
    shown = {**{name: large[name] for name in chosen}, **grounds}

    def draw(name: str, rng: random.Random) -> Image.Image:
        return open_picture(rng.choice(shown[name]))

    look = PhotographLook(draw, tuple(shown))
    for name in chosen:
        for motion in MOTIONS:
            file = f"moving_{name.replace(' ', '_')}_{motion}.mp4"
            scene = Scene((Group(name, None, 1, motion),), seed=seed_of(file))
            write_scene(scene, out / file, look=look)
            yield row("moving", file, scene)


def both(pictures: Items, sounds: Items, out: Path) -> Iterator[dict[str, object]]:
    """Photographs with recordings, half of them of the same thing."""
    rng = random.Random(SEED)
    names = [name for name in sounds if name in pictures]
    for number in range(BOTH):
        heard = names[number // 2 % len(names)]
        seen = heard if number % 2 else rng.choice([name for name in names if name != heard])
        file = f"both_{number:03d}.mp4"
        scene = Scene((Group(seen, None),), sound=heard, seconds=SECONDS, seed=seed_of(file))
        look = WholePhotograph(open_picture(rng.choice(pictures[seen])))
        sound = samples_of(rng.choice(sounds[heard]))
        write_scene(replace(scene, seconds=SECONDS), out / file, look=look, sound=sound)
        yield row("both", file, scene)


def open_picture(item: Labelled) -> Image.Image:
    """The photograph of an item."""
    return Image.open(io.BytesIO(item.data)).convert("RGB")


def samples_of(item: Labelled) -> np.ndarray:
    """Its sound, (N,) at 16 kHz, as long as a clip."""
    sound = load_media(item.data, with_frames=False).sound
    assert sound is not None
    heard = sound[0, : round(item.about.get("seconds", 5.0) * RATE)]
    return np.clip(np.resize(heard, round(SECONDS * RATE)), -1, 1)


def seed_of(text: str) -> int:
    """A number that decides the wording of the questions about a file."""
    return random.Random(text).getrandbits(40)


if __name__ == "__main__":
    main()

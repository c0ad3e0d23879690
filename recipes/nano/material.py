"""What nano is trained on: the drawn world, joined with photographs and recordings where there are
some.

A folder of them holds shards as in `data.labelled`. Their classes are mapped to the words of the
world's vocabulary; classes without a word are left out.
"""

import io
import random
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.nano.facts import Vocabulary
from recipes.nano.settings import SEED
from video_llama.data.labelled import SPLITS, Split, read_labelled
from video_llama.data.world.photographs import PhotographLook, pictured, recorded
from video_llama.data.world.things import AUDIBLE, NAMED, SOUNDING, THINGS
from video_llama.media.reader import load_media

SIDE = 72  # pixels of a stored photograph; a little more than the encoder sees, to crop from
SECONDS, RATE = 5, 16_000  # of a stored recording


@dataclass(frozen=True)
class Material:
    """The vocabulary and, if `folder` is given, the photographs and recordings in it.

    `work` is where they are unpacked. `seed` is that of all training; what is rendered to train
    on is the same for every seed.
    """

    work: Path
    folder: Path | None = None
    seed: int = SEED

    @property
    def things(self) -> tuple[str, ...]:
        """All that may be seen."""
        return tuple(NAMED if self.folder else THINGS)

    @property
    def audible(self) -> tuple[str, ...]:
        """All that may be heard."""
        return AUDIBLE if self.folder else SOUNDING

    @property
    def vocabulary(self) -> Vocabulary:
        """What tokens may say."""
        return Vocabulary(self.things, self.audible)

    @property
    def photographs(self) -> float:
        """The share of things that are photographed, of those in rendered scenes."""
        return 0.5 if self.folder else 0.0


class Photographs:
    """Photographs of one split: `pixels` (N, SIDE, SIDE, 3) uint8, `labels` (N,), `sharp` (N,)."""

    def __init__(self, material: Material, split: Split) -> None:
        self.pixels = _unpacked(material, split, "pixels")
        self.labels = _unpacked(material, split, "labels")
        self.sharp = _unpacked(material, split, "sharp")  # larger than 32 pixels in the shard

    @cached_property
    def of_name(self) -> dict[str, np.ndarray]:
        """Indices of the photographs of each thing."""
        names = tuple(NAMED)
        return {names[i]: np.nonzero(self.labels == i)[0] for i in np.unique(self.labels)}

    def draw(self, name: str, rng: random.Random) -> Image.Image:
        """One photograph of a thing."""
        return Image.fromarray(self.pixels[rng.choice(self.of_name[name])])


class Recordings:
    """Recordings of one split: `samples` (N, 80000) int16, 16 kHz, `lengths` and `labels` (N,)."""

    def __init__(self, material: Material, split: Split) -> None:
        self.samples = _unpacked(material, split, "samples")
        self.lengths = _unpacked(material, split, "lengths")
        self.labels = _unpacked(material, split, "heard")

    @cached_property
    def of_name(self) -> dict[str, np.ndarray]:
        """Indices of the recordings of each thing."""
        names = tuple(NAMED)
        return {names[i]: np.nonzero(self.labels == i)[0] for i in np.unique(self.labels)}

    def draw(self, name: str, seconds: float, rng: random.Random) -> np.ndarray:
        """A stretch of a recording of a thing, float32; repeated where it is too short."""
        index = rng.choice(self.of_name[name])
        length = max(int(self.lengths[index]), RATE // 4)
        sound = self.samples[index, :length].astype(np.float32) / 32768
        wanted = round(seconds * RATE)
        if len(sound) < wanted:
            return np.resize(sound, wanted)
        start = rng.randrange(len(sound) - wanted + 1)
        return sound[start : start + wanted]


@lru_cache(maxsize=4)
def photographs(material: Material, split: Split = "train") -> Photographs:
    """The photographs of a split, opened once in a process."""
    return Photographs(material, split)


@lru_cache(maxsize=4)
def recordings(material: Material, split: Split = "train") -> Recordings:
    """The recordings of a split, opened once in a process."""
    return Recordings(material, split)


def photograph_look(material: Material, split: Split = "train") -> PhotographLook:
    """A look for scenes with photographs of a split."""
    shown = photographs(material, split)
    return PhotographLook(shown.draw, tuple(shown.of_name))


def _unpacked(material: Material, split: Split, name: str) -> np.ndarray:
    path = material.work / f"real.{split}.{name}.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing: unpack the photographs first")
    return np.load(path, mmap_mode="r")


def unpack(material: Material) -> None:
    """Read all shards into arrays in the work folder, once."""
    if material.folder is None:
        return
    for split in SPLITS:
        if (material.work / f"real.{split}.heard.npy").is_file():
            continue
        arrays = {**_read_pictures(material.folder, split), **_read_sounds(material.folder, split)}
        for name, array in arrays.items():
            part = material.work / f"real.{split}.{name}.part.npy"
            np.save(part, array)
            part.rename(material.work / f"real.{split}.{name}.npy")


def _read_pictures(folder: Path, split: Split) -> dict[str, np.ndarray]:
    names = {name: i for i, name in enumerate(NAMED)}
    pixels, labels, sharp = [], [], []
    for item in read_labelled(folder, "images", split):
        name = pictured(item.label)
        if name is None:
            continue
        picture = Image.open(io.BytesIO(item.data)).convert("RGB")
        squeezed = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels.append(np.asarray(squeezed))
        labels.append(names[name])
        sharp.append(max(picture.size) > 32)
    return {
        "pixels": np.stack(pixels),
        "labels": np.array(labels, np.int16),
        "sharp": np.array(sharp),
    }


def _read_sounds(folder: Path, split: Split) -> dict[str, np.ndarray]:
    names = {name: i for i, name in enumerate(NAMED)}
    samples, lengths, labels = [], [], []
    for item in read_labelled(folder, "sounds", split):
        name = recorded(item.label)
        sound = None if name is None else load_media(item.data, with_frames=False).sound
        if name is None or sound is None:
            continue
        row = np.zeros(SECONDS * RATE, np.int16)
        heard = (np.clip(sound[0, : len(row)], -1, 1) * 32767).astype(np.int16)
        row[: len(heard)] = heard
        samples.append(row)
        lengths.append(min(len(heard), round(item.about.get("seconds", SECONDS) * RATE)))
        labels.append(names[name])
    return {
        "samples": np.stack(samples),
        "lengths": np.array(lengths, np.int32),
        "heard": np.array(labels, np.int16),
    }

"""Photographed things in scenes of the world: cut-outs that move as its drawings do.

The photographs come from outside, by name of what is on them.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from video_llama.data.world.draw import DRAWN
from video_llama.data.world.scene import Group, Scene
from video_llama.data.world.things import AUDIBLE, PHOTOGRAPHED

SCENERY = tuple(name for name, thing in PHOTOGRAPHED.items() if thing.scenery)
# Labels that go by another name here.
_PICTURE_NAMES = {"cellphone": "phone", "soccer ball": "ball", "tram": "train"}
_SOUND_NAMES = {"speech": "person", "tram": "train"}

PLAIN = 14.0  # mean deviation, of 255, of a border that counts as plain
DIFFERS = (18.0, 48.0)  # distance from it, of 441, where a thing begins and where it is all there


def pictured(label: str) -> str | None:
    """The world's name of what a photograph is labelled with; None if it has no word for it."""
    name = _PICTURE_NAMES.get(label, label)
    return name if name in PHOTOGRAPHED else None


def recorded(label: str) -> str | None:
    """The world's name of what a recording is labelled with; None if it has no word for it."""
    name = _SOUND_NAMES.get(label, label)
    return name if name in AUDIBLE and name in PHOTOGRAPHED else None


class PhotographLook:
    """Cut-outs of photographs beside drawings, on photographed grounds or drawn ones.

    `draw` gives a photograph of a thing, `names` are the things it has some of.
    """

    def __init__(
        self, draw: Callable[[str, random.Random], Image.Image], names: Sequence[str]
    ) -> None:
        self._draw = draw
        self._names = tuple(names)
        self._scenery = tuple(name for name in self._names if name in SCENERY)

    def sprite(self, group: Group, pixels: int, rng: random.Random) -> Image.Image:
        """See `draw.Look`."""
        if group.colour is not None:
            return DRAWN.sprite(group, pixels, rng)
        return cut_out(self._draw(group.thing, rng), rng)

    def ground(self, scene: Scene, width: int, height: int, rng: random.Random) -> np.ndarray:
        """See `draw.Look`. A drawn thing keeps a ground that its colour stands out from."""
        drawn = any(group.colour is not None for group in scene.groups)
        if drawn or rng.random() < 0.4:
            return DRAWN.ground(scene, width, height, rng)
        open_air = bool(self._scenery) and rng.random() < 0.4
        name = rng.choice(self._scenery if open_air else self._names)
        ground = random_crop(self._draw(name, rng), rng, 0.15, 0.5)
        if name not in SCENERY:  # a ground, not a second thing
            ground = ground.filter(ImageFilter.GaussianBlur(rng.uniform(4, 9)))
        return np.asarray(ground.resize((width, height), Image.Resampling.BICUBIC))


class WholePhotograph:
    """A photograph that fills the frame, as it is."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture.convert("RGB")

    def sprite(self, group: Group, pixels: int, rng: random.Random) -> Image.Image:  # noqa: ARG002
        """Nothing: all is on the ground."""
        return Image.new("RGBA", (pixels, pixels))

    def ground(
        self,
        scene: Scene,  # noqa: ARG002
        width: int,
        height: int,
        rng: random.Random,  # noqa: ARG002
    ) -> np.ndarray:
        """The photograph, (height, width, 3)."""
        return np.asarray(self._picture.resize((width, height), Image.Resampling.BICUBIC))


def random_crop(
    picture: Image.Image, rng: random.Random, least: float, most: float = 1.0
) -> Image.Image:
    """A part of a picture, with between `least` and `most` of its area; now and then mirrored."""
    share = rng.uniform(least, most) ** 0.5
    aspect = rng.uniform(0.87, 1.15)
    width = max(4, round(picture.width * min(1.0, share * aspect)))
    height = max(4, round(picture.height * min(1.0, share / aspect)))
    left = rng.randint(0, picture.width - width)
    top = rng.randint(0, picture.height - height)
    part = picture.crop((left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def cut_out(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A square picture (RGBA) of a thing without its surroundings.

    Where the border is plain, what differs from it is kept; else an oval.
    """
    rgb = np.asarray(picture.convert("RGB"), np.float32)  # (H, W, 3)
    edges = (rgb[:2], rgb[-2:], rgb[:, :2], rgb[:, -2:])
    border = np.concatenate([edge.reshape(-1, 3) for edge in edges])
    middle = np.median(border, axis=0)
    alpha = None
    if np.abs(border - middle).mean() < PLAIN:
        apart = np.linalg.norm(rgb - middle, axis=-1)
        begins, whole = DIFFERS
        soft = np.clip((apart - begins) / (whole - begins), 0, 1)
        mask = Image.fromarray((soft * 255).astype(np.uint8))
        mask = mask.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.MaxFilter(3))
        share = np.asarray(mask).mean() / 255
        alpha = np.asarray(mask) if 0.12 < share < 0.85 else None
    if alpha is None:
        alpha = _oval(rgb.shape[0], rgb.shape[1], rng)
    cut = Image.fromarray(np.dstack([rgb.astype(np.uint8), alpha]))
    side = max(cut.size)
    return cut if cut.width == cut.height else cut.resize((side, side), Image.Resampling.BICUBIC)


def _oval(height: int, width: int, rng: random.Random) -> np.ndarray:
    """A soft-edged ellipse or rounded square that nearly fills (height, width), uint8."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    power = rng.choice((2.0, 2.0, 4.0))
    across, down = rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0)
    radius = np.abs(x / across) ** power + np.abs(y / down) ** power
    return (np.clip((1.0 - radius) / 0.15, 0, 1) * 255).astype(np.uint8)

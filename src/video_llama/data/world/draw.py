"""Frames of a scene: where its things are at each moment, on which ground.

What the facts leave open is drawn from the scene's seed, so the frames of a scene are always the
same, and a moment looks the same whichever other moments are asked for. Shapes: T frames, H rows, W
columns.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from PIL import Image, ImageFilter

from video_llama.data.world.grounds import ground
from video_llama.data.world.scene import Group, Scene
from video_llama.data.world.sprites import sprite
from video_llama.errors import OptionError

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TRAVEL = (0.42, 0.58)  # of the frame's side along the motion, over the whole time a group is shown
GROWTH = (2.2, 3.0)  # largest size over smallest, of things that come closer or go away


class Look(Protocol):
    """Where pictures of things come from, if not from the world's own drawings."""

    def sprite(self, group: Group, pixels: int, rng: random.Random) -> Image.Image:
        """A picture of one thing of a group, RGBA, square, of about `pixels` a side."""
        ...

    def ground(self, scene: Scene, width: int, height: int, rng: random.Random) -> np.ndarray:
        """What is behind the things: (height, width, 3) uint8."""
        ...


class _Drawn:
    """The world's own look."""

    def sprite(self, group: Group, pixels: int, rng: random.Random) -> Image.Image:  # noqa: ARG002
        if group.colour is None:
            raise OptionError(f"the world does not draw a photograph of {group.thing!r}")
        return sprite(group.thing, group.colour, pixels)

    def ground(self, scene: Scene, width: int, height: int, rng: random.Random) -> np.ndarray:
        return ground(scene, width, height, rng)


DRAWN: Look = _Drawn()


@dataclass(frozen=True)
class _Track:
    """How one group is shown: its picture, the moment it is there, its path; lengths in pixels."""

    picture: Image.Image
    start: float
    end: float
    offsets: tuple[tuple[float, float], ...]  # of each thing from the middle, in sizes
    size: tuple[float, float]  # at the start and at the end of the path
    first: tuple[float, float]  # middle at the start
    last: tuple[float, float]

    def at(self, time: float) -> Iterator[tuple[float, float, float]]:
        """Centre x, centre y and size of each thing at a time in [0, 1) of the clip."""
        share = (time - self.start) / (self.end - self.start)
        size = self.size[0] * (self.size[1] / self.size[0]) ** share
        x = self.first[0] + (self.last[0] - self.first[0]) * share
        y = self.first[1] + (self.last[1] - self.first[1]) * share
        for dx, dy in self.offsets:
            yield x + dx * size, y + dy * size, size


def render_frames(
    scene: Scene,
    size: int | tuple[int, int] = 64,
    *,
    num_frames: int | None = None,
    times: Sequence[float] | None = None,
    look: Look = DRAWN,
) -> np.ndarray:
    """Frames of a scene: (T, H, W, 3) uint8 RGB.

    `size` is a side in pixels or (width, height). `times` are moments in [0, 1) of the clip;
    without them `num_frames` moments (8; 1 of a picture) at the starts of equal parts. `look` says
    where the pictures of things and grounds come from. Raises OptionError for a scene without a
    picture and for times outside of [0, 1).
    """
    width, height, moments = _checked(scene, size, num_frames, times)
    rng = random.Random(f"draw/{scene.seed}")
    tracks = _tracks(scene, width, height, rng, look)
    behind = Image.fromarray(look.ground(scene, width, height, rng))
    blur = rng.uniform(0.3, 0.7) * width / 64 if rng.random() < 0.3 else 0.0
    grain = rng.uniform(1.0, 6.0) if rng.random() < 0.5 else 0.0

    frames = np.empty((len(moments), height, width, 3), np.uint8)
    cache: dict[tuple[int, int], tuple[Image.Image, Image.Image]] = {}
    for index, time in enumerate(moments):
        frame = behind.copy()
        for number, x, y, side in _things_at(tracks, time):
            if (number, side) not in cache:
                picture = tracks[number].picture.resize(
                    (side, side), Image.Resampling.BILINEAR, reducing_gap=2
                )
                cache[number, side] = picture.convert("RGB"), picture.getchannel("A")
            colours, alpha = cache[number, side]
            frame.paste(colours, (x, y), alpha)
        if blur:
            frame = frame.filter(ImageFilter.GaussianBlur(blur))
        frames[index] = np.asarray(frame)
        if grain:
            _add_grain(frames[index], grain, scene.seed + round(time * 100_003))
    return frames


def render_masks(
    scene: Scene,
    size: int | tuple[int, int] = 64,
    *,
    num_frames: int | None = None,
    times: Sequence[float] | None = None,
    look: Look = DRAWN,
) -> np.ndarray:
    """Where the things of a scene are: (T, G, H, W) uint8 coverage for each of its G groups, 255 =
    covered.

    Arguments as for `render_frames`, whose frames these masks belong to.
    """
    width, height, moments = _checked(scene, size, num_frames, times)
    tracks = _tracks(scene, width, height, random.Random(f"draw/{scene.seed}"), look)
    masks = np.zeros((len(moments), len(tracks), height, width), np.uint8)
    for index, time in enumerate(moments):
        layers = [Image.new("L", (width, height)) for _ in tracks]
        for number, x, y, side in _things_at(tracks, time):
            picture = tracks[number].picture.resize(
                (side, side), Image.Resampling.BILINEAR, reducing_gap=2
            )
            layers[number].paste(255, (x, y), picture.getchannel("A"))
        masks[index] = np.stack([np.asarray(layer) for layer in layers])
    return masks


def _checked(
    scene: Scene, size: int | tuple[int, int], num_frames: int | None, times: Sequence[float] | None
) -> tuple[int, int, Sequence[float]]:
    if not scene.groups:
        raise OptionError("this scene is a sound alone and has no frames")
    width, height = (size, size) if isinstance(size, int) else size
    if min(width, height) < 16:
        raise OptionError(f"frames are at least 16 pixels wide and high; got {width}x{height}")
    if times is None:
        count = num_frames or (1 if scene.kind == "image" else 8)
        times = [i / count for i in range(count)]
    if not times or min(times) < 0 or max(times) >= 1:
        raise OptionError("times are moments in [0, 1) of the clip, at least one")
    return width, height, times


def _things_at(tracks: Sequence[_Track], time: float) -> Iterator[tuple[int, int, int, int]]:
    """(group, left, top, side), in whole pixels, of everything shown at a time."""
    for number, track in enumerate(tracks):
        if track.start <= time < track.end:
            for x, y, size in track.at(time):
                side = max(2, round(size))
                yield number, round(x - side / 2), round(y - side / 2), side


def _tracks(scene: Scene, width: int, height: int, rng: random.Random, look: Look) -> list[_Track]:
    if scene.relation == "beside":
        a, b = scene.groups
        left, right = _column(a.count), _column(b.count)
        apart = rng.uniform(0.56, 0.75)
        offsets = [[(x - apart, y) for x, y in left], [(x + apart, y) for x, y in right]]
        path = _path(a.motion, offsets[0] + offsets[1], width, height, rng)
        return [
            _track(g, o, path, (0.0, 1.0), rng, look) for g, o in zip((a, b), offsets, strict=True)
        ]
    spans = [(0.0, 1.0)] if len(scene.groups) == 1 else [(0.0, 0.5), (0.5, 1.0)]
    tracks = []
    for group, span in zip(scene.groups, spans, strict=True):
        offsets = _cluster(group.count, rng)
        path = _path(group.motion, offsets, width, height, rng)
        tracks.append(_track(group, offsets, path, span, rng, look))
    return tracks


def _column(count: int) -> list[tuple[float, float]]:
    return [(0.0, 1.06 * (i - (count - 1) / 2)) for i in range(count)]


def _cluster(count: int, rng: random.Random) -> list[tuple[float, float]]:
    """Offsets of `count` things, in sizes: a row, a column, a triangle or a square, no overlap."""
    gap = rng.uniform(1.03, 1.15)
    row = [(gap * (i - (count - 1) / 2), rng.uniform(-0.1, 0.1)) for i in range(count)]
    layouts = [row]
    if count == 2:
        layouts.append([(y, x) for x, y in row])
    if count == 3:
        flip = rng.choice((-1, 1))
        layouts = [
            row,
            [(-gap / 2, gap * flip / 2), (gap / 2, gap * flip / 2), (0.0, -gap * flip / 2)],
        ]
    if count == 4:
        layouts = [[(x * gap / 2, y * gap / 2) for x in (-1, 1) for y in (-1, 1)]]
    return rng.choice(layouts)


@dataclass(frozen=True)
class _Path:
    size: tuple[float, float]
    first: tuple[float, float]
    last: tuple[float, float]


def _path(
    motion: str, offsets: Sequence[tuple[float, float]], width: int, height: int, rng: random.Random
) -> _Path:
    """Sizes and middles at both ends, such that everything stays in the frame all along."""
    columns = 1 + max(x for x, _ in offsets) - min(x for x, _ in offsets)
    rows = 1 + max(y for _, y in offsets) - min(y for _, y in offsets)
    dx, dy = DIRECTIONS.get(motion, (0, 0))
    travel = rng.uniform(*TRAVEL)
    travel_x, travel_y = travel * width * dx, travel * height * dy
    # Largest size that leaves room for the way, then a random one below it.
    room = min((width - abs(travel_x)) / columns, (height - abs(travel_y)) / rows)
    if motion in ("closer", "away"):
        large = room * rng.uniform(0.82, 0.98)
        sizes = (large / rng.uniform(*GROWTH), large)
        size = sizes if motion == "closer" else sizes[::-1]
    else:
        large = min(room * rng.uniform(0.72, 1.0), height * rng.uniform(0.42, 0.58))
        size = (large, large)
    large = max(size)
    free_x = max(0.0, width - abs(travel_x) - columns * large) / 2
    free_y = max(0.0, height - abs(travel_y) - rows * large) / 2
    middle_of_offsets = (
        (max(x for x, _ in offsets) + min(x for x, _ in offsets)) / 2,
        (max(y for _, y in offsets) + min(y for _, y in offsets)) / 2,
    )
    x = width / 2 + rng.uniform(-free_x, free_x) - middle_of_offsets[0] * large
    y = height / 2 + rng.uniform(-free_y, free_y) - middle_of_offsets[1] * large
    return _Path(size, (x - travel_x / 2, y - travel_y / 2), (x + travel_x / 2, y + travel_y / 2))


def _track(
    group: Group,
    offsets: Sequence[tuple[float, float]],
    path: _Path,
    span: tuple[float, float],
    rng: random.Random,
    look: Look,
) -> _Track:
    """A group on its path, in a picture that is flipped, turned, stretched and tinted a little."""
    side = math.ceil(max(path.size) * 1.5)
    detail = next((p for p in (128, 256) if p >= side), 512)
    picture = look.sprite(group, detail, rng)
    if side < picture.width:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = _warped(
        picture, math.radians(rng.uniform(-9, 9)), rng.uniform(0.86, 1.0), rng.random() < 0.5
    )
    # Some light, a little tint; equal channels stay nearly equal, so that white stays white.
    light = rng.uniform(0.88, 1.04)
    tint = [int(128 * light * rng.uniform(0.975, 1.025)) for _ in range(3)]
    tinted = np.asarray(picture, np.uint16) * np.array([*tint, 128], np.uint16) >> 7
    picture = Image.fromarray(np.minimum(tinted, 255).astype(np.uint8))
    return _Track(picture, *span, tuple(offsets), path.size, path.first, path.last)


def _warped(picture: Image.Image, angle: float, squeeze: float, wide: bool) -> Image.Image:
    """Turned by `angle` and squeezed to a share of its height if `wide`, else of its width."""
    across, down = (1.0, squeeze) if wide else (squeeze, 1.0)
    cos, sin, half = math.cos(angle), math.sin(angle), picture.width / 2
    # PIL wants, for each pixel of the result, where it comes from.
    a, b = cos / across, sin / across
    d, e = -sin / down, cos / down
    matrix = (a, b, half - (a + b) * half, d, e, half - (d + e) * half)
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )


@lru_cache(maxsize=8)
def _noise(shape: tuple[int, ...]) -> np.ndarray:
    """Eight frames of int16 Gaussian noise of deviation 32; anew for each frame would be slow."""
    noise = np.random.default_rng(0).standard_normal((8, *shape), dtype=np.float32)
    return (32 * noise).astype(np.int16)


def _add_grain(frame: np.ndarray, strength: float, seed: int) -> None:
    """Noise of deviation `strength` on a frame (H, W, 3), in place."""
    grain = _noise(frame.shape)[seed % 8] * np.int16(round(strength)) >> 5
    np.clip(grain + frame, 0, 255, out=frame, casting="unsafe")

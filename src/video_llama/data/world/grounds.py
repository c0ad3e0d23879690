"""What is behind the things of a scene: unsaturated, plain or lightly patterned, never of their
colour.

Shapes: H rows, W columns.
"""

import math
import random

import numpy as np
from PIL import Image

from video_llama.data.world.scene import Scene
from video_llama.data.world.things import COLOURS

COLOUR_DISTANCE = 105.0  # least distance from every body colour, in RGB, of 441


def ground(scene: Scene, width: int, height: int, rng: random.Random) -> np.ndarray:
    """A background (H, W, 3) uint8, far from every body colour."""
    colours = [COLOURS[group.colour] for group in scene.groups if group.colour is not None]
    bodies = np.array(colours, np.float32).reshape(-1, 3)
    first = _ground_colour(bodies, rng)
    second = _second_colour(first, bodies, rng)
    pattern = rng.choice(("plain", "gradient", "gradient", "noise", "noise", "stripes", "floor"))
    if pattern == "plain":
        share = np.zeros((height, width), np.float32)
    elif pattern == "noise":
        coarse = np.frombuffer(rng.randbytes(8 * 8), np.uint8).reshape(8, 8)
        cells = rng.choice((4, 6, 8))
        smooth = Image.fromarray(coarse[:cells, :cells]).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        share = np.asarray(smooth, np.float32) / 255
    elif pattern == "floor":
        line = rng.uniform(0.5, 0.8)
        share = np.repeat(
            (np.arange(height) > line * height).astype(np.float32)[:, None], width, axis=1
        )
    else:
        angle = rng.uniform(0, 2 * math.pi)
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * math.cos(angle)
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * math.sin(angle)
        along = x[None, :] + y[:, None]
        waves = rng.uniform(2, 6)
        share = along + 0.5 if pattern == "gradient" else (along * waves) % 1 < 0.5
    colours = first + (second - first) * share[..., None]
    return np.clip(colours, 0, 255).astype(np.uint8)


def _ground_colour(bodies: np.ndarray, rng: random.Random) -> np.ndarray:
    """An unsaturated colour at least COLOUR_DISTANCE from all body colours."""
    while True:
        value = 255 * rng.uniform(0.3, 0.97)
        tint = rng.uniform(0, 0.26)
        shares = [rng.random() for _ in range(3)]
        top, low = max(shares), min(shares)
        colour = np.array(
            [value * (1 - tint * (top - s) / (top - low + 1e-9)) for s in shares], np.float32
        )
        if np.linalg.norm(bodies - colour, axis=1).min(initial=np.inf) >= COLOUR_DISTANCE:
            return colour


def _second_colour(first: np.ndarray, bodies: np.ndarray, rng: random.Random) -> np.ndarray:
    """A lighter or darker neighbour of the first colour, as far from the body colours."""
    for step in (rng.uniform(20, 60), rng.uniform(15, 30), 10.0):
        for sign in rng.sample((-1, 1), 2):
            second = np.clip(first + sign * step, 20, 250)
            if np.linalg.norm(bodies - second, axis=1).min(initial=np.inf) >= COLOUR_DISTANCE:
                return second
    return first

"""Renders the training scenes once, into arrays on disk.

frames/  single pictures of scenes with what is seen in each (encoders)
clips/   8 frames of each scene (video branch)
sounds/  mel clips of single things (ImageBind's sound side)
"""

import io
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recipes.nano.settings import IMAGE_SIZE, NUM_FRAMES, SCENES
from video_llama.data.world.draw import render_frames, render_masks
from video_llama.data.world.scene import Scene, sample_scene
from video_llama.data.world.things import COLOURS, SOUNDING, THINGS

THING_IDS = {name: i for i, name in enumerate(THINGS)}
COLOUR_IDS = {name: i for i, name in enumerate(COLOURS)}
FRAMES_PER_SCENE = 2
# Columns of the facts of a frame: for the left (or only) group and the right one
# thing, colour, count (-1: not there), then centre x, centre y, height, as shares of the frame.
FACT_COLUMNS = 12


def shown_size(rng: random.Random) -> tuple[int, int]:
    """The size a scene is drawn in before it is squeezed into a square, as real clips are."""
    return rng.choice([(64, 64), (96, 72), (112, 63), (80, 60), (72, 96)])


def squeeze(frames: np.ndarray, rng: random.Random) -> np.ndarray:
    """Frames (T, H, W, 3) to squares; now and then through JPEG, as video is compressed."""
    quality = rng.choice([None, rng.randint(35, 90)])
    out = np.empty((len(frames), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for i, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        if quality is not None:
            packed = io.BytesIO()
            picture.save(packed, "JPEG", quality=quality)
            picture = Image.open(packed)
        out[i] = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return out


def frame_facts(scene: Scene, time: float, masks: np.ndarray) -> list[float]:
    """What is seen at one moment; masks (G, H, W)."""
    facts = [-1.0] * FACT_COLUMNS
    place = 0
    for group, mask in zip(scene.groups, masks, strict=True):
        if scene.relation == "then" and (time < 0.5) != (group is scene.groups[0]):
            continue
        rows, columns = np.nonzero(mask > 127)
        box = (
            [
                columns.mean() / mask.shape[1],
                rows.mean() / mask.shape[0],
                (np.ptp(rows) + 1) / mask.shape[0],
            ]
            if len(rows)
            else [0.5, 0.5, 0.0]
        )
        ids = [THING_IDS[group.thing], COLOUR_IDS[group.colour], group.count - 1]
        facts[place : place + 6] = [*map(float, ids), *box]
        place += 6
    return facts


def render_frame_item(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (2, S, S, 3) of one scene and their facts (2, 12)."""
    rng = random.Random(f"nano/frames/{seed}")
    scene = sample_scene(
        rng,
        rng.choice(["video", "image"]),
        relation_weights={"alone": 0.6, "beside": 0.35, "then": 0.05},
        count_weights=dict.fromkeys((1, 2, 3, 4), 1.0),
        motion_weights={
            "still": 1,
            "left": 1,
            "right": 1,
            "up": 1,
            "down": 1,
            "closer": 2,
            "away": 2,
        },
    )
    times = sorted(rng.uniform(0, 0.999) for _ in range(FRAMES_PER_SCENE))
    size = shown_size(rng)
    frames = squeeze(render_frames(scene, size, times=times), rng)
    masks = render_masks(scene, size, times=times)
    facts = [frame_facts(scene, t, m) for t, m in zip(times, masks, strict=True)]
    return frames, np.array(facts, np.float32)


def clip_scene(seed: int) -> Scene:
    """The scene behind a training clip."""
    return sample_scene(random.Random(f"nano/clips/{seed}"))


def render_clip_item(seed: int) -> tuple[np.ndarray]:
    """Frames (8, S, S, 3) of one scene."""
    rng = random.Random(f"nano/clip-look/{seed}")
    return (squeeze(render_frames(clip_scene(seed), shown_size(rng), num_frames=NUM_FRAMES), rng),)


def sound_thing(seed: int) -> str:
    """What makes the sound of a training item."""
    return SOUNDING[seed % len(SOUNDING)]


def render_sound_item(seed: int) -> tuple[np.ndarray]:
    """One mel clip (1, 128, 204) in half precision."""
    from video_llama.data.world.sounds import render_sound
    from video_llama.processing.mel import MelSettings, sound_to_clips

    rng = np.random.default_rng([seed, 1])
    samples = render_sound(sound_thing(seed), 2.0, rng=rng)
    if rng.random() < 0.5:  # quieter, and with a rustle of its own
        samples = samples * rng.uniform(0.1, 1.0)
        samples = samples + rng.normal(0, rng.uniform(1e-4, 1e-2), len(samples))
    sound = torch.from_numpy(np.asarray(samples, np.float32))[None]
    return (sound_to_clips(sound, MelSettings(num_clips=1))[0].numpy().astype(np.float16),)


ITEMS: dict[str, Callable[[int], tuple[np.ndarray, ...]]] = {
    "frames": render_frame_item,
    "clips": render_clip_item,
    "sounds": render_sound_item,
}


def render(kind: str, folder: Path, workers: int = 2) -> list[np.ndarray]:
    """The arrays of a kind, rendered if they are not there yet."""
    paths = [folder / f"{kind}.{i}.npy" for i in range(2 if kind == "frames" else 1)]
    if not all(path.is_file() for path in paths):
        with ProcessPoolExecutor(workers) as pool:
            items = list(
                pool.map(_quiet_item, [kind] * SCENES[kind], range(SCENES[kind]), chunksize=64)
            )
        for path, arrays in zip(paths, zip(*items, strict=True), strict=True):
            np.save(path.with_suffix(".part.npy"), np.stack(arrays))
            path.with_suffix(".part.npy").rename(path)
    return [np.load(path, mmap_mode="r") for path in paths]


def _quiet_item(kind: str, seed: int) -> tuple[np.ndarray, ...]:
    torch.set_num_threads(1)
    return ITEMS[kind](seed)


def pixels(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 (..., H, W, 3) -> normalised float (..., 3, H, W)."""
    from video_llama.processing.frames import IMAGE_MEAN, IMAGE_STD

    x = torch.from_numpy(np.array(frames)).float().div_(255)
    x = (x - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
    return x.movedim(-1, -3).contiguous()

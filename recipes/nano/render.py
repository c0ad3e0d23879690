"""Renders the training scenes once, into arrays on disk.

frames    single pictures of scenes with what is seen in each, and where (encoders)
clips     8 frames of each scene (video branch)
sounds    mel clips of single things of the world (ImageBind's sound side)
recorded  mel clips of recordings, likewise
"""

import io
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from PIL import Image

from recipes.nano.loop import DEVICE, save_array
from recipes.nano.material import (
    Material,
    photograph_look,
    photographs,
    recordings,
)
from recipes.nano.rough_sound import roughened
from recipes.nano.settings import IMAGE_SIZE, NUM_FRAMES, SCENES
from video_llama.data.world.draw import DRAWN, Look, render_frames, render_masks
from video_llama.data.world.photographs import random_crop
from video_llama.data.world.scene import Scene, sample_scene
from video_llama.data.world.things import COLOURS, NAMED, SOUNDING

THING_IDS = {name: i for i, name in enumerate(NAMED)}
COLOUR_IDS = {name: i for i, name in enumerate(COLOURS)}
FRAMES_PER_SCENE = 2
DRAWN_CLIPS = 1 / 3  # of the clips: drawings alone, as the world's own questions are asked of
FULL_SHARE = 0.6  # of lone photographed things that stay still: shown as the whole photograph
# Columns of the facts of a frame: for the left (or only) group and the right one
# thing (-1: not there), colour (-1: not known), count, then centre x, centre y, height, as shares
# of the frame (height 0: not known).
FACT_COLUMNS = 12
GRID = 4  # patches on a side, as the frame encoder has them
COVERED = 0.12  # share of a patch that a thing must cover to be what is there


def look_of(material: Material) -> Look:
    """Where pictures come from."""
    return photograph_look(material) if material.folder else DRAWN


def fills_frame(scene: Scene, rng: random.Random) -> bool:
    """Whether a scene is shown as a photograph as it is, not as a cut-out on a ground."""
    group = scene.groups[0]
    lone = len(scene.groups) == 1 and group.count == 1 and group.motion == "still"
    if not lone or group.colour is not None:
        return False
    return NAMED[group.thing].scenery or rng.random() < FULL_SHARE


def whole_photograph(material: Material, scene: Scene, rng: random.Random) -> np.ndarray:
    """(1, S, S, 3): a crop of a photograph of the scene's thing."""
    picture = random_crop(photographs(material).draw(scene.groups[0].thing, rng), rng, 0.5)
    square = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(square)[None]


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
        colour = -1 if group.colour is None else COLOUR_IDS[group.colour]
        ids = [THING_IDS[group.thing], colour, group.count - 1]
        facts[place : place + 6] = [*map(float, ids), *box]
        place += 6
    return facts


def patch_things(scene: Scene, time: float, masks: np.ndarray) -> list[int]:
    """What is seen in each of the GRID x GRID patches, row by row; -1 for the ground."""
    covered = np.zeros((len(masks), GRID * GRID), np.float32)
    for number, mask in enumerate(masks):
        if scene.relation == "then" and (time < 0.5) != (number == 0):
            continue
        small = Image.fromarray(mask).resize((GRID, GRID), Image.Resampling.BOX)
        covered[number] = np.asarray(small, np.float32).ravel() / 255
    things = np.array([THING_IDS[group.thing] for group in scene.groups])
    return np.where(covered.max(0) >= COVERED, things[covered.argmax(0)], -1).tolist()


def render_frame_item(material: Material, seed: int) -> tuple[np.ndarray, ...]:
    """Frames (2, S, S, 3) of one scene, their facts (2, 12) and things by patch (2, 16)."""
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
        photographs=material.photographs,
    )
    if fills_frame(scene, rng):
        frames = np.concatenate([whole_photograph(material, scene, rng) for _ in range(2)])
        facts = [THING_IDS[scene.groups[0].thing], -1, 0, 0.5, 0.5, 0, *[-1] * 6]
        patches = np.full((2, GRID * GRID), facts[0], np.int16)
        return squeeze(frames, rng), np.array([facts] * 2, np.float32), patches
    times = sorted(rng.uniform(0, 0.999) for _ in range(FRAMES_PER_SCENE))
    size = shown_size(rng)
    look = look_of(material)
    frames = squeeze(render_frames(scene, size, times=times, look=look), rng)
    masks = render_masks(scene, size, times=times, look=look)
    facts = [frame_facts(scene, t, m) for t, m in zip(times, masks, strict=True)]
    patches = [patch_things(scene, t, m) for t, m in zip(times, masks, strict=True)]
    return frames, np.array(facts, np.float32), np.array(patches, np.int16)


def clip_scene(material: Material, seed: int) -> Scene:
    """The scene behind a training clip."""
    rng = random.Random(f"nano/clips/{seed}")
    photographs = 0.0 if rng.random() < DRAWN_CLIPS else material.photographs
    return sample_scene(rng, photographs=photographs, audible=material.audible)


def render_clip_item(material: Material, seed: int) -> tuple[np.ndarray]:
    """Frames (8, S, S, 3) of one scene."""
    rng = random.Random(f"nano/clip-look/{seed}")
    scene = clip_scene(material, seed)
    if fills_frame(scene, rng):
        frames = np.repeat(whole_photograph(material, scene, rng), NUM_FRAMES, axis=0)
    else:
        frames = render_frames(
            scene, shown_size(rng), num_frames=NUM_FRAMES, look=look_of(material)
        )
    return (squeeze(frames, rng),)


def sound_thing(seed: int) -> str:
    """What makes the sound of a training item of the world."""
    return SOUNDING[seed % len(SOUNDING)]


def recorded_thing(material: Material, seed: int) -> str:
    """What makes the sound of a recorded training item; rare things are favoured."""
    counts = {name: len(found) for name, found in recordings(material).of_name.items()}
    rng = random.Random(f"nano/recorded/{seed}")
    return rng.choices(list(counts), [n**0.5 for n in counts.values()])[0]


def mel_clip(samples: np.ndarray) -> tuple[np.ndarray]:
    """One mel clip (1, 128, 204) in half precision of samples (N,)."""
    from video_llama.processing.mel import MelSettings, sound_to_clips

    sound = torch.from_numpy(np.asarray(samples, np.float32))[None]
    return (sound_to_clips(sound, MelSettings(num_clips=1))[0].numpy().astype(np.float16),)


def render_sound_item(material: Material, seed: int) -> tuple[np.ndarray]:  # noqa: ARG001
    """One mel clip of a thing of the world."""
    from video_llama.data.world.sounds import render_sound

    rng = np.random.default_rng([seed, 1])
    samples = render_sound(sound_thing(seed), 2.0, rng=rng)
    if rng.random() < 0.5:  # quieter, and with a rustle of its own
        samples = samples * rng.uniform(0.1, 1.0)
        samples = samples + rng.normal(0, rng.uniform(1e-4, 1e-2), len(samples))
    return mel_clip(samples)


def render_recorded_item(material: Material, seed: int) -> tuple[np.ndarray]:
    """One mel clip of a recording: of another pitch, and as others would have made it."""
    name = recorded_thing(material, seed)
    rng = random.Random(f"nano/recorded-sound/{seed}")
    # Half of them by up to half an octave: other voices, other animals.
    pace = 2 ** rng.uniform(-0.5, 0.5) if rng.random() < 0.5 else rng.uniform(0.9, 1.12)
    sound = recordings(material).draw(name, 2.0 * pace, rng)
    samples = np.interp(np.arange(32000) * pace, np.arange(len(sound)), sound)
    return mel_clip(roughened(samples, np.random.default_rng([seed, 2])))


ITEMS: dict[str, Callable[[Material, int], tuple[np.ndarray, ...]]] = {
    "frames": render_frame_item,
    "clips": render_clip_item,
    "sounds": render_sound_item,
    "recorded": render_recorded_item,
}


def render(kind: str, material: Material, workers: int = 2) -> list[np.ndarray]:
    """The arrays of a kind, rendered if they are not there yet."""
    paths = [material.work / f"{kind}.{i}.npy" for i in range(3 if kind == "frames" else 1)]
    if not all(path.is_file() for path in paths):
        count = SCENES[kind]
        with ProcessPoolExecutor(workers) as pool:
            arguments = ([kind] * count, [material] * count, range(count))
            items = list(pool.map(_quiet_item, *arguments, chunksize=64))
        for path, arrays in zip(paths, zip(*items, strict=True), strict=True):
            save_array(path, np.stack(arrays))
    return [np.load(path, mmap_mode="r") for path in paths]


def _quiet_item(kind: str, material: Material, seed: int) -> tuple[np.ndarray, ...]:
    torch.set_num_threads(1)
    return ITEMS[kind](material, seed)


def pixels(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 (..., H, W, 3) -> normalised float (..., 3, H, W)."""
    from video_llama.processing.frames import IMAGE_MEAN, IMAGE_STD

    x = torch.from_numpy(np.array(frames)).to(DEVICE).float().div_(255)
    x = (x - x.new_tensor(IMAGE_MEAN)) / x.new_tensor(IMAGE_STD)
    return x.movedim(-1, -3).contiguous()

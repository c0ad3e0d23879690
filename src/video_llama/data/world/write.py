"""The synthetic world as files: clips, pictures, sounds, and one line of facts and questions for
each.

Every file is written under a temporary name and renamed when it is whole, so that a run that was
broken off goes on where it stopped. The same seed gives the same facts and the same pixels and
samples, and, with the same build of the codecs, the same bytes.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import soundfile
from PIL import Image

from video_llama.data.world.draw import DRAWN, Look, render_frames
from video_llama.data.world.questions import QA, questions
from video_llama.data.world.scene import Group, Kind, Scene, scene_from_seed
from video_llama.data.world.sounds import SAMPLE_RATE, render_sound
from video_llama.data.world.things import KINDS
from video_llama.errors import OptionError
from video_llama.whole_file import whole_file

SUFFIXES: dict[str, str] = {"video": ".mp4", "image": ".png", "audio": ".wav"}
# The kinds of successive items, over and over.
KIND_CYCLE: tuple[Kind, ...] = ("video", "image", "video", "audio", "video")
LISTING = "world.jsonl"
SETTINGS = "world.json"
CHUNK = 64  # frames in memory at once


def write_world(
    out_dir: str | Path,
    count: int,
    seed: int = 0,
    *,
    kinds: Collection[Kind] = ("video", "image", "audio"),
    size: tuple[int, int] = (160, 120),
    fps: int = 12,
    seconds: float = 4.0,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Write items number `seed` to `seed + count - 1` of the world; give back the path of the
    listing.

    `size` is (width, height) in pixels, both even; clips and sounds last `seconds`. Items that are
    there already are kept, of other numbers also in the listing. `progress` is called with the
    number of items done. The listing, `world.jsonl`, holds for each item "file", "kind", "seed",
    "seconds", "facts" and "questions" in "en" and "zh"; it is written last. Raises OptionError for
    settings that cannot be, for a folder that cannot be written to, and for one that holds a world
    with other settings.
    """
    if count < 1 or seed < 0:
        raise OptionError(f"count is at least 1 and seed at least 0; got {count} and {seed}")
    return write_items(
        out_dir,
        range(seed, seed + count),
        kinds=kinds,
        size=size,
        fps=fps,
        seconds=seconds,
        progress=progress,
    )


def write_items(
    out_dir: str | Path,
    numbers: Iterable[int],
    *,
    kinds: Collection[Kind] = ("video", "image", "audio"),
    size: tuple[int, int] = (160, 120),
    fps: int = 12,
    seconds: float = 4.0,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Write the items of some numbers, which need not be neighbours, as `write_world` does."""
    _check(kinds, size, fps, seconds)
    out = Path(out_dir)
    settings = {"size": list(size), "fps": fps, "seconds": seconds, "kinds": sorted(kinds)}
    with _told_plainly(out):
        out.mkdir(parents=True, exist_ok=True)
        _claim(out, settings)
        lines = []
        for number in numbers:
            scene = item_scene(number, kinds=kinds, seconds=seconds)
            path = out / f"{scene.kind}_{number:07d}{SUFFIXES[scene.kind]}"
            if not path.exists():
                write_scene(scene, path, size=size, fps=fps)
            lines.append(_line(scene, path.name))
            if progress:
                progress(len(lines))
        _write_text(out / LISTING, _with_those_before(out / LISTING, lines))
    return out / LISTING


def item_scene(
    seed: int, *, kinds: Collection[Kind] = ("video", "image", "audio"), seconds: float = 4.0
) -> Scene:
    """The scene that `write_world` writes under a number."""
    cycle = [kind for kind in KIND_CYCLE if kind in kinds]
    return scene_from_seed(seed, cycle[seed % len(cycle)], seconds=seconds)


def write_scene(
    scene: Scene,
    path: str | Path,
    *,
    size: tuple[int, int] = (160, 120),
    fps: int = 12,
    look: Look = DRAWN,
    sound: np.ndarray | None = None,
) -> Path:
    """Write one scene: a clip as H.264 with AAC in mp4, a picture as PNG, a sound as 16-bit WAV.

    `look` gives other pictures than the world's own, `sound` (N,), float32 at 16 kHz, is heard in
    the place of the world's own.
    """
    path = Path(path)
    if sound is None and scene.sound is not None:
        sound = render_sound(scene)
    with whole_file(path) as other:
        if scene.kind == "image":
            Image.fromarray(render_frames(scene, size, look=look)[0]).save(other, "PNG")
        elif scene.kind == "audio":
            assert sound is not None
            soundfile.write(other, sound, SAMPLE_RATE, subtype="PCM_16", format="WAV")
        else:
            _write_clip(scene, other, size, fps, look, sound)
    return path


# The seeds are chosen so that every thing is in plain sight.
SAMPLES: dict[str, Scene] = {
    "red_dog.mp4": Scene((Group("dog", "red", 1, "left"),), sound="dog", seconds=3.0, seed=22),
    "blue_cats_and_a_bell.mp4": Scene(
        (Group("cat", "blue", 2, "closer"),), sound="bell", seconds=3.0, seed=0
    ),
    "frog_then_car.mp4": Scene(
        (Group("frog", "green", 1, "up"), Group("car", "yellow", 1, "right")),
        relation="then",
        sound="frog",
        seconds=4.0,
        seed=12,
    ),
    "silent_kites.mp4": Scene((Group("kite", "purple", 3, "right"),), seconds=3.0, seed=28),
    "house_and_tree.png": Scene(
        (Group("house", "white"), Group("tree", "green")), relation="beside", seconds=0.0, seed=28
    ),
    "train.wav": Scene((), sound="train", seconds=1.8, seed=6),
}


def write_samples(out_dir: str | Path) -> list[Path]:
    """Write the named sample media of `SAMPLES`, each under 60 kB; give back their paths."""
    out = Path(out_dir)
    with _told_plainly(out):
        out.mkdir(parents=True, exist_ok=True)
        return [write_scene(scene, out / name) for name, scene in SAMPLES.items()]


def _write_clip(
    scene: Scene,
    path: Path,
    size: tuple[int, int],
    fps: int,
    look: Look,
    samples: np.ndarray | None,
) -> None:
    count = max(1, round(scene.seconds * fps))
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        # One thread each: the bytes do not depend on the machine's number of cores.
        options = {"crf": "20", "preset": "veryfast", **_steady()}
        video = container.add_stream("libx264", rate=fps, options=options)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        audio = None
        if samples is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate = 48_000
        for start in range(0, count, CHUNK):
            times = [i / count for i in range(start, min(count, start + CHUNK))]
            for picture in render_frames(scene, size, times=times, look=look):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None and samples is not None:
            sound = av.AudioFrame.from_ndarray(
                samples[None].astype(np.float32), format="fltp", layout="mono"
            )
            sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))


def _steady() -> dict[str, str]:
    """What keeps x264 to the same bytes every time: its code for AVX-512 does not."""
    import torch

    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return {"x264-params": "asm=avx2"} if wide else {}


def _check(kinds: Collection[str], size: tuple[int, int], fps: int, seconds: float) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise OptionError(
            f"kinds are one or more of {', '.join(KINDS)}; got {', '.join(unknown) or 'none'}"
        )
    if any(side < 32 or side % 2 for side in size):
        raise OptionError(f"width and height are even and at least 32; got {size[0]}x{size[1]}")
    if fps < 1 or not 0.1 <= seconds <= 600:
        raise OptionError(f"fps is at least 1 and seconds from 0.1 to 600; got {fps} and {seconds}")


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Note the settings of a new folder; refuse one that was begun with others."""
    path = out / SETTINGS
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            raise OptionError(
                f"{out} holds a world made with {found}; choose another folder or these settings"
            )
        return
    _write_text(path, [settings])


def _line(scene: Scene, name: str) -> dict[str, object]:
    return {
        "file": name,
        "kind": scene.kind,
        "seed": scene.seed,
        "seconds": scene.seconds,
        "facts": scene.facts(),
        "questions": {
            "en": [_as_dict(qa) for qa in questions(scene, "en")],
            "zh": [_as_dict(qa) for qa in questions(scene, "zh")],
        },
    }


def _as_dict(qa: QA) -> dict[str, object]:
    return {
        "kind": qa.kind,
        "question": qa.question,
        "answer": qa.answer,
        "answer_words": list(qa.answer_words),
    }


def _with_those_before(listing: Path, lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """The lines with those of other items that are listed already, by number."""
    if not listing.is_file():
        return lines
    new = {line["file"] for line in lines}
    text = listing.read_text(encoding="utf-8")
    before = [line for line in map(json.loads, text.splitlines()) if line["file"] not in new]
    return sorted([*before, *lines], key=lambda line: cast(int, line["seed"]))


def _write_text(path: Path, lines: Iterable[dict[str, object]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with whole_file(path) as other:
        other.write_text(text, encoding="utf-8")


@contextmanager
def _told_plainly(out: Path) -> Iterator[None]:
    """A folder that cannot be made or written to is the user's to put right."""
    try:
        yield
    except OSError as error:
        raise OptionError(
            f"cannot write to {out}: {error.strerror or error}; choose a folder you can write to"
        ) from error

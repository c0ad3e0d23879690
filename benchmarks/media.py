"""How fast frames and sound are read, beside decord and torchcodec.

    python benchmarks/media.py --media FOLDER [--make-long FILE | --long FILE] [--repeats 5]

Prints JSON: seconds of each reader (medians over repeats, the readers taking turns), their ratio to
ours, and whether every frame of ours is identical to a full decode. A reader that is not installed
or does not load is recorded as absent, with the reason. The readers run as their users run them,
with their own defaults; `load_media` reads sound and picture of a file in one pass, so frames and
sound are asked for one at a time here.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np

from video_llama.media.pixels import upright_rgb
from video_llama.media.reader import load_media, probe
from video_llama.media.sampling import uniform_indices

Reader = Callable[[Path], object]
SECONDS_OF_SOURCE = 60  # of the long film, which repeats itself
LONG_SECONDS = 30 * 60
LONG_SIZE, LONG_FPS = (1280, 720), 30


def main() -> None:
    arguments = parse()
    if arguments.make_long:
        make_long(arguments.make_long)
    long = arguments.long or arguments.make_long
    frames, sounds, absent = readers(arguments.frames)
    report: dict[str, Any] = {"environment": environment(absent), "frames": {}, "sound": {}}
    if arguments.media:
        films = [path for path in sorted(arguments.media.iterdir()) if kind(path) == "video"]
        report["identical"] = {path.name: identical(path, arguments.frames) for path in films}
        common, refused = readable(films, frames)
        report["frames"]["refused"] = refused
        report["frames"]["clips"] = compare(common, frames, arguments.repeats)
        heard = [path for path in films if probe(path).audio is not None]
        common, refused = readable(heard, sounds)
        report["sound"]["refused"] = refused
        report["sound"]["clips"] = compare(common, sounds, arguments.repeats)
    if long:
        report["frames"]["long"] = compare([long], frames, arguments.repeats)
        report["sound"]["long"] = compare([long], sounds, min(arguments.repeats, 3))
        if arguments.check_long:
            report.setdefault("identical", {})[long.name] = identical(long, arguments.frames)
    print(json.dumps(report, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time reading frames and sound.")
    parser.add_argument("--media", type=Path, help="a folder of clips")
    parser.add_argument("--long", type=Path, help="a long film")
    parser.add_argument("--make-long", type=Path, help="write a 30-minute 720p film and use it")
    parser.add_argument("--check-long", action="store_true", help="decode the long film wholly")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def readers(count: int) -> tuple[dict[str, Reader], dict[str, Reader], dict[str, str]]:
    """Readers of frames and of sound, ours first, and why others are absent."""
    frames: dict[str, Reader] = {
        "video_llama": lambda path: load_media(path, num_frames=count, with_sound=False)
    }
    sounds: dict[str, Reader] = {"video_llama": lambda path: load_media(path, with_frames=False)}
    absent = {}
    for name, add in (("decord", add_decord), ("torchcodec", add_torchcodec)):
        try:
            add(importlib.import_module(name), frames, sounds, count)
        except (ImportError, OSError, RuntimeError) as error:
            absent[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return frames, sounds, absent


def add_decord(
    decord: Any, frames: dict[str, Reader], sounds: dict[str, Reader], count: int
) -> None:
    def read_frames(path: Path) -> object:
        film = decord.VideoReader(str(path))
        return film.get_batch(uniform_indices(len(film), count)).asnumpy()

    frames["decord"] = read_frames
    sounds["decord"] = lambda path: decord.AudioReader(str(path), sample_rate=16_000, mono=True)[:]


def add_torchcodec(
    _: Any, frames: dict[str, Reader], sounds: dict[str, Reader], count: int
) -> None:
    decoders = importlib.import_module("torchcodec.decoders")

    def read_frames(path: Path) -> object:
        film = decoders.VideoDecoder(str(path), dimension_order="NHWC")
        return film.get_frames_at(uniform_indices(film.metadata.num_frames, count)).data

    def read_sound(path: Path) -> object:
        sound = decoders.AudioDecoder(str(path), sample_rate=16_000, num_channels=1)
        return sound.get_all_samples().data

    frames["torchcodec"] = read_frames
    sounds["torchcodec"] = read_sound


def readable(
    paths: list[Path], candidates: dict[str, Reader]
) -> tuple[list[Path], dict[str, dict[str, str]]]:
    """The files that all readers read, and which the others refused, with what error."""
    common, refused = [], {}
    for path in paths:
        reasons = {}
        for name, read in candidates.items():
            try:
                read(path)
            except Exception as error:  # noqa: BLE001 (whatever a foreign library raises)
                reasons[name] = type(error).__name__
        if reasons:
            refused[path.name] = reasons
        else:
            common.append(path)
    return common, refused


def compare(paths: list[Path], candidates: dict[str, Reader], repeats: int) -> dict[str, Any]:
    """Median seconds for all files together, and our time over that of each other reader."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, read in candidates.items():
            begin = time.perf_counter()
            for path in paths:
                read(path)
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: median(values) for name, values in seconds.items()}
    ours = medians["video_llama"]
    return {
        "files": len(paths),
        "median_seconds": {name: round(value, 4) for name, value in medians.items()},
        "ours_over": {
            name: round(ours / value, 3) for name, value in medians.items() if name != "video_llama"
        },
    }


def identical(path: Path, count: int) -> bool:
    """Whether our frames are those of decoding the whole file in order."""
    clip = load_media(path, num_frames=count, with_sound=False)
    assert clip.frames is not None
    wanted = dict(zip(clip.indices, clip.frames, strict=True))
    same, number = True, 0
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                full = upright_rgb(frame, frame.width, frame.height)
                same &= np.array_equal(wanted.pop(number), full)
    video = clip.info.video
    return same and not wanted and video is not None and video.num_frames == number + 1


def kind(path: Path) -> str | None:
    return None if path.suffix == ".csv" else probe(path).kind


def make_long(path: Path) -> None:
    """Half an hour of 720p H.264 and AAC: a minute is encoded, and its packets are repeated."""
    minute = path.with_suffix(".minute.mp4")
    encode_minute(minute)
    with av.open(str(path), "w") as output:
        with av.open(str(minute)) as source:
            targets = {s.index: output.add_stream_from_template(s) for s in source.streams}
        for turn in range(LONG_SECONDS // SECONDS_OF_SOURCE):
            with av.open(str(minute)) as source:
                for packet in source.demux():
                    if packet.dts is None or packet.pts is None:
                        continue
                    shift = round(turn * SECONDS_OF_SOURCE / packet.time_base)
                    if turn and packet.dts < 0 and packet.stream.type == "audio":
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = targets[packet.stream_index]
                    output.mux(packet)
    minute.unlink()


def encode_minute(path: Path) -> None:
    width, height = LONG_SIZE
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (height // 8, width // 4, 3), dtype=np.uint8)
    texture = np.kron(texture, np.ones((8, 8, 1), np.uint8))  # (H, 2 W, 3), to wander over
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=LONG_FPS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"preset": "veryfast", "crf": "26"}
        audio = output.add_stream("aac", rate=48_000, layout="stereo")
        for number in range(SECONDS_OF_SOURCE * LONG_FPS):
            left = (3 * number) % width
            pixels = np.ascontiguousarray(texture[:, left : left + width])
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = number, Fraction(1, LONG_FPS)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        samples = np.arange(SECONDS_OF_SOURCE * 48_000)
        wave = (0.4 * np.sin(samples * (0.03 + 0.01 * np.sin(samples / 1e5)))).astype(np.float32)
        for at in range(0, len(wave), 1024):
            chunk = np.stack([wave[at : at + 1024]] * 2)
            sound = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="stereo")
            sound.sample_rate, sound.pts = 48_000, at
            output.mux(audio.encode(sound))
        output.mux(audio.encode(None))


def environment(absent: dict[str, str]) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    packages = ("av", "torch", "numpy", "decord", "torchcodec")
    versions = {name: version for name in packages if (version := installed(name))}
    return {
        "commit": commit.stdout.strip() or None,
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": sys.version.split()[0],
        "versions": versions,
        "absent": absent,
    }


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()

"""How long a user waits: for `--help`, and from a cold start to the first answer.

Every run is a process of its own. Prints JSON: medians, all runs, peak memory of the child, and on
what it was measured. `ratios` compare with importing torch and transformers alone, in the same run.

    python benchmarks/start.py --repeat 5 --model nano clip.mp4
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import circumstances

COMMAND = (sys.executable, "-m", "video_llama")
PEER = (sys.executable, "-c", "import torch; from transformers import PreTrainedModel")
QUESTION = "What do you see, and what do you hear?"
TARGETS = {"help_seconds": 0.5, "answer_seconds": 10.0, "answer_peak_bytes": 1.5e9}


def measure(command: tuple[str, ...]) -> dict[str, float]:
    """Run a command; wall seconds, seconds to its first output, CPU seconds and peak memory."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        first = time.perf_counter() - started
        child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            assert child.stderr is not None
            sys.exit(f"{' '.join(command)} failed:\n{child.stderr.read().decode()}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in kilobytes on Linux
    return {
        "seconds": wall,
        "first_output_seconds": first,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * unit,
    }


def medians(command: tuple[str, ...], repeat: int) -> dict[str, Any]:
    """Several runs and the median of each number; one more run before warms the file cache."""
    measure(command)
    runs = [measure(command) for _ in range(repeat)]
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return {**middle, "runs": runs}


def write_clip(path: Path, seconds: int = 4) -> Path:
    """A clip like those of the synthetic world: H.264 and AAC, 160 x 120."""
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=12)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio = container.add_stream("aac", rate=44_100)
        audio.layout = "mono"
        for number in range(12 * seconds):
            pixels = np.full((120, 160, 3), 200, dtype=np.uint8)
            pixels[40:80, 2 * number : 2 * number + 40] = (200, 40, 40)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 12)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = np.sin(2 * np.pi * 440 * np.arange(44_100 * seconds) / 44_100)
        sound = av.AudioFrame.from_ndarray(
            (0.3 * samples).astype(np.float32)[None], format="fltp", layout="mono"
        )
        sound.sample_rate, sound.pts = 44_100, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return path


def run(model: str, clip: Path, repeat: int) -> dict[str, Any]:
    """All measurements."""
    shown = medians((*COMMAND, "--help"), repeat)
    imports = medians(PEER, repeat)
    ask = (*COMMAND, "ask", str(clip), QUESTION, "--model", model, "--offline")
    answer = medians(ask, repeat)
    reached = {
        "help_seconds": shown["seconds"],
        "answer_seconds": answer["seconds"],
        "answer_peak_bytes": answer["peak_bytes"],
    }
    return {
        "model": model,
        "clip_bytes": clip.stat().st_size,
        "help": shown,
        "answer": answer,
        "import_torch_and_transformers": imports,
        "ratios": {
            "answer_to_imports": answer["seconds"] / imports["seconds"],
            "answer_to_imports_cpu": answer["cpu_seconds"] / imports["cpu_seconds"],
        },
        "targets": {
            name: {"limit": limit, "measured": reached[name], "met": reached[name] < limit}
            for name, limit in TARGETS.items()
        },
        "circumstances": circumstances(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", nargs="?", type=Path, help="a file; made if none is given")
    parser.add_argument("--model", default="nano", help="'nano' or a directory")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or write_clip(Path(folder) / "clip.mp4")
        print(json.dumps(run(arguments.model, clip, arguments.repeat), indent=2))


if __name__ == "__main__":
    main()

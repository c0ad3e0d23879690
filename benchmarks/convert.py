"""Peak memory and time of a conversion, against the size of its largest input file.

    python benchmarks/convert.py [--layers 8] [--folder /tmp]

Writes a set of published files of a few GB: the published widths and random numbers, with fewer
layers of the language model. Converts it in a process of its own and prints JSON.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from video_llama.checkpoints.back import FILE_NAMES
from video_llama.checkpoints.readers import TensorInfo
from video_llama.checkpoints.table import FILE_PREFIXES, Kind, Published, to_published
from video_llama.checkpoints.writer import write_model
from video_llama.models import VideoLlamaConfig, VideoLlamaForConditionalGeneration

TOKENIZER = Path(__file__).parents[1] / "tests" / "parity" / "kit" / "tokenizer"
VOCABULARY = 480  # of that tokenizer; the table is small beside the layers
GIGABYTE = 10**9
ALLOWED_FACTOR, ALLOWED_EXTRA = 1.5, 1.0  # peak <= factor * largest file + extra GB
DTYPES: dict[Kind, torch.dtype] = {"eva": torch.float16, "language_model": torch.float16}
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8, help="of the language model")
    parser.add_argument("--width", type=int, default=4096, help="of the language model")
    parser.add_argument("--folder", type=Path, default=None, help="where to write (some GB)")
    parser.add_argument("--convert", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convert:
        convert_and_report(*options.convert)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        print(json.dumps(measure(Path(temporary), options.layers, options.width), indent=2))


def measure(root: Path, layers: int, width: int) -> dict[str, Any]:
    """Generate, convert in another process, compare."""
    published = root / "published"
    write_published(published, layers, width)
    files = [path for path in published.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    command = [sys.executable, __file__, "--convert", str(published), str(root / "ours")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(run.stdout.splitlines()[-1])
    allowed = ALLOWED_FACTOR * largest.stat().st_size + ALLOWED_EXTRA * GIGABYTE
    return {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "safetensors")},
        "input_gb": sum(path.stat().st_size for path in files) / GIGABYTE,
        "output_gb": result["output"] / GIGABYTE,
        "largest_file": largest.name,
        "largest_file_gb": largest.stat().st_size / GIGABYTE,
        "seconds": result["seconds"],
        "peak_gb": result["peak"] / GIGABYTE,
        "peak_of_imports_gb": result["peak_before"] / GIGABYTE,
        "allowed_gb": allowed / GIGABYTE,
        "peak_over_largest_file": result["peak"] / largest.stat().st_size,
        "within": result["peak"] <= allowed,
    }


def convert_and_report(source: Path, output: Path) -> None:
    """In the measured process: convert, and print peak and time."""
    from video_llama.checkpoints.convert import convert

    before = peak()
    start = time.perf_counter()
    convert(source, output, template="llama_2")
    report = {
        "seconds": time.perf_counter() - start,
        "peak_before": before,
        "peak": peak(),
        "output": sum(path.stat().st_size for path in output.iterdir()),
    }
    print(json.dumps(report))


def write_published(folder: Path, layers: int, width: int) -> None:
    """Random published files of the real widths."""
    text_config = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": width * 43 // 16,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 128,
    }
    config = VideoLlamaConfig(text_config=text_config)
    needed = sum(info.num_bytes for entries in shapes(config).values() for info in entries.values())
    free = shutil.disk_usage(folder.parent).free
    if free < 2.2 * needed:
        sys.exit(f"{2.2 * needed / GIGABYTE:.0f} GB are needed and {free / GIGABYTE:.0f} GB free")
    (folder / FILE_NAMES["language_model"]).mkdir(parents=True)
    for kind, infos in shapes(config).items():
        if kind == "language_model":
            directory = folder / FILE_NAMES[kind]
            write_model(directory, infos, lambda key, infos=infos: random_tensor(infos[key], key))
            (directory / "config.json").write_text(json.dumps(text_config), encoding="utf-8")
            for path in TOKENIZER.iterdir():
                shutil.copy(path, directory)
        else:
            tensors = {key: random_tensor(info, key) for key, info in infos.items()}
            flat = kind in ("eva", "imagebind")
            torch.save(tensors if flat else {"model": tensors}, folder / FILE_NAMES[kind])


def shapes(config: VideoLlamaConfig) -> dict[Kind, dict[str, TensorInfo]]:
    """What each published file holds."""
    with torch.device("meta"):
        model = VideoLlamaForConditionalGeneration(config)
    files: dict[Kind, dict[str, TensorInfo]] = {}
    for name, tensor in model.state_dict().items():
        for entry in to_published(name):
            key = entry.name.removeprefix(FILE_PREFIXES[entry.kind])
            files.setdefault(entry.kind, {})[key] = info_of(entry, tensor)
    return files


def info_of(entry: Published, tensor: torch.Tensor) -> TensorInfo:
    shape = tuple(tensor.shape)
    if entry.part != "whole":
        shape = (shape[0] // 3,)
    return TensorInfo(shape, DTYPES.get(entry.kind, torch.float32))


def random_tensor(info: TensorInfo, key: str) -> torch.Tensor:
    """Norms near one, so that nothing looks like a delta; else small numbers."""
    center = 1.0 if "norm" in key.lower() else 0.0
    return torch.empty(info.shape, dtype=info.dtype).uniform_(center - 0.02, center + 0.02)


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts the parent's memory too, from before the exec
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT


def commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    run = subprocess.run(
        [git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or None


if __name__ == "__main__":
    main()

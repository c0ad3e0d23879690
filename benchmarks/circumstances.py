"""Where a benchmark ran: what its figures must be read with."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def circumstances() -> dict[str, Any]:
    """Commit, hardware and versions."""
    described = subprocess.run(
        ("git", "describe", "--always", "--dirty"),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "commit": described.stdout.strip() or None,
        "machine": platform.machine(),
        "processor": names[0] if names else platform.processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "av", "video-llama")},
        },
    }

"""Real clips, where a checkout has them; and the way to `make.py` for the tests of this folder."""

import csv
import os
import sys
from pathlib import Path

import pytest

# Test modules are imported one by one, without packages; helpers beside them need a path.
sys.path.insert(0, str(Path(__file__).parent))

DEFAULT_MEDIA = Path(__file__).parents[3] / "shared" / "media"


def media_folder() -> Path:
    return Path(os.environ.get("VIDEO_LLAMA_MEDIA_DIR", DEFAULT_MEDIA))


def manifest() -> list[dict[str, str]]:
    path = media_folder() / "MANIFEST.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def media() -> Path:
    folder = media_folder()
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip("no real clips: set VIDEO_LLAMA_MEDIA_DIR to a folder of them")
    return folder

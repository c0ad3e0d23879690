"""Small data sets in every format, with real media, and the tiny model's processor."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from video_llama.processing.processor import VideoLlamaProcessor


@pytest.fixture(scope="session")
def processor(tiny_model_dir):
    return VideoLlamaProcessor.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="session")
def make_processor(save_tiny_model, tmp_path_factory):
    """`make_processor(template)`."""

    def make(template: str) -> VideoLlamaProcessor:
        folder = save_tiny_model(tmp_path_factory.mktemp("models") / template, template=template)
        return VideoLlamaProcessor.from_pretrained(folder)

    return make


def save_picture(path: Path, shade: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((30, 40, 3), shade, dtype=np.uint8)
    pixels[5:15, 5:20] = (200, 30, 30)
    Image.fromarray(pixels).save(path)
    return path


def save_sound(path: Path, tone: float = 440.0, seconds: float = 0.6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * 16_000)) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * tone * time), 16_000)
    return path


def save_json(path: Path, value) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def save_lines(path: Path, rows) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session", name="save_picture")
def _save_picture():
    return save_picture


@pytest.fixture(scope="session", name="save_sound")
def _save_sound():
    return save_sound


@pytest.fixture(scope="session", name="save_json")
def _save_json():
    return save_json


@pytest.fixture(scope="session", name="save_lines")
def _save_lines():
    return save_lines


@pytest.fixture(scope="session")
def mixed_lines(tmp_path_factory, write_clip):
    """A file of JSON lines: 12 rows of a picture, a video and a sound in turn, all of them good."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = []
    for number in range(12):
        kind = ("image", "video", "audio")[number % 3]
        name = f"media/{number}.{ {'image': 'png', 'video': 'mkv', 'audio': 'wav'}[kind] }"
        if kind == "image":
            save_picture(folder / name, shade=10 * number)
        elif kind == "audio":
            save_sound(folder / name, tone=200 + 30 * number)
        else:
            write_clip(folder / name, seconds=1 + number / 10)
        question = [{"type": kind, kind: name}, {"type": "text", "text": f"What is in {number}?"}]
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": f"It is number {number}."},
                ]
            }
        )
    return save_lines(folder / "mixed.jsonl", rows)

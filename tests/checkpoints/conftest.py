"""A tiny published model to convert, and to break in every way people meet."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from video_llama.checkpoints.convert import convert

LAYOUT = Path(__file__).parents[1] / "parity" / "kit" / "checkpoint_layout"


class Published:
    """A folder of published files, and how to change one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def change(self, name: str, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
        """Edit the tensors of a file in place."""
        path = self.folder / name
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            edit(tensors)
            save_file(tensors, path)
            return
        content = torch.load(path, weights_only=True)
        edit(content.get("model", content))
        torch.save(content, path)

    def change_json(self, name: str, **fields: Any) -> None:
        """Set fields of a JSON file."""
        path = self.folder / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**content, **fields}), encoding="utf-8")


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """A copy of the tiny published set."""
    folder = tmp_path / "published"
    shutil.copytree(LAYOUT, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Published(folder)


@pytest.fixture(scope="session")
def overrides() -> dict[str, Any]:
    """The heads and depth of the tiny set, which its weights do not tell."""
    config = json.loads((LAYOUT / "layout.json").read_text(encoding="utf-8"))["config"]
    heads = config["bert"]["num_attention_heads"]
    return {
        "vision_config.num_attention_heads": config["eva"]["num_heads"],
        "vision_config.num_hidden_layers": config["eva"]["depth"],
        "qformer_config.num_attention_heads": heads,
        "video_qformer_config.num_attention_heads": heads,
        "audio_qformer_config.num_attention_heads": heads,
        "imagebind_config.vision_num_attention_heads": config["imagebind"]["vision_num_heads"],
        "imagebind_config.audio_num_attention_heads": config["imagebind"]["audio_num_heads"],
    }


@pytest.fixture
def run(published: Published, tmp_path: Path, overrides: dict[str, Any]) -> Callable[..., Any]:
    """Convert the published set into `tmp_path / "ours"`, with other options."""

    def convert_it(**options: Any) -> Any:
        defaults = {"template": "vicuna", "overrides": overrides}
        return convert(published.folder, tmp_path / "ours", **{**defaults, **options})

    return convert_it


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, overrides: dict[str, Any]) -> Path:
    """The tiny set, converted; tests that change it take a copy."""
    output = tmp_path_factory.mktemp("converted") / "tiny"
    convert(LAYOUT, output, template="vicuna", overrides=overrides)
    return output


@pytest.fixture
def ours(converted: Path, tmp_path: Path) -> Path:
    """A copy of the converted set, to be changed."""
    shutil.copytree(converted, tmp_path / "tiny")
    return tmp_path / "tiny"

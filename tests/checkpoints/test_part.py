"""What tells the model of a part from others."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from video_llama.checkpoints.load import load_model, whole_model
from video_llama.checkpoints.part import (
    LORA_A,
    LORA_B,
    PART_FILE,
    TRAINED_FILE,
    Part,
    fingerprint,
    put_in,
)
from video_llama.checkpoints.writer import SINGLE_NAME
from video_llama.errors import CheckpointError


def test_every_tensor_counts(tiny_model_dir, tmp_path):
    path = tmp_path / SINGLE_NAME
    shutil.copy(tiny_model_dir / SINGLE_NAME, path)
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:length])
    header.pop("__metadata__", None)
    marks = {fingerprint(tmp_path)}
    for entry in header.values():
        start, end = (length + at for at in entry["data_offsets"])
        with path.open("r+b") as file:
            file.seek((start + end) // 2)
            file.write(bytes([data[(start + end) // 2] ^ 1]))
        marks.add(fingerprint(tmp_path))
        path.write_bytes(data)
    assert len(marks) == len(header) + 1


def test_large_tensors_count_where_they_are_looked_at(tmp_path):
    """A step of training changes all of a tensor; of a large one only pieces are read."""
    tensors = {name: torch.zeros(1_000_000) for name in ("a", "b", "c")}
    marks = set()
    for rows in (slice(0), slice(100), slice(-100, None), slice(None)):
        changed = tensors["b"].clone()
        changed[rows] += 1e-7
        save_file({**tensors, "b": changed}, tmp_path / SINGLE_NAME)
        marks.add(fingerprint(tmp_path))
    assert len(marks) == 4


def test_adapters_are_added_where_the_model_is(tiny_model_dir):
    """A part is read on the CPU; "meta" stands for an accelerator."""
    model = load_model(tiny_model_dir, device="cpu").to("meta")
    name = next(name for name, _ in model.named_parameters() if name.endswith("q_proj.weight"))
    weight = dict(model.named_parameters())[name]
    layer = name.removesuffix(".weight")
    first, second = torch.ones(2, weight.shape[1]), torch.ones(weight.shape[0], 2)
    put_in(model, {f"{layer}{LORA_A}": first, f"{layer}{LORA_B}": second}, 1.0)
    for alone in ({f"{layer}{LORA_A}": first}, {f"{layer}{LORA_B}": second}):
        with pytest.raises(CheckpointError, match=f"there is no place for '{layer}"):
            put_in(model, alone, 1.0)


def test_a_model_that_is_gone_is_named_with_its_part(tmp_path):
    part = Part("../moved", "x")
    with pytest.raises(CheckpointError, match=r"is a part of the model \.\./moved.* part\.json"):
        whole_model(tmp_path, part)


def test_a_part_is_told_by_its_tensors_and_its_model(tmp_path):
    def mark(value: float, base: str) -> str:
        (tmp_path / PART_FILE).write_text(Part("base", base).to_json(), encoding="utf-8")
        save_file({"a": torch.full((3,), value)}, tmp_path / TRAINED_FILE)
        return fingerprint(tmp_path)

    assert mark(1.0, "x") == mark(1.0, "x")
    assert len({mark(1.0, "x"), mark(2.0, "x"), mark(1.0, "y")}) == 3

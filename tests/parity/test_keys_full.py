"""Every key of the real full-size model is used or droppable, and fits the real model's shapes."""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from video_llama.checkpoints.sizes import Shapes, infer_config
from video_llama.checkpoints.table import FILE_PREFIXES, droppable, to_ours, to_published
from video_llama.models import VideoLlamaForConditionalGeneration

KIT = Path(os.environ.get("VIDEO_LLAMA_PARITY_DIR", Path(__file__).parent / "kit"))
FILES = json.loads((KIT / "keys_full.json").read_text(encoding="utf-8"))["files"]
LANGUAGE_MODELS = {
    "7B": LlamaConfig(),
    "13B": LlamaConfig(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ),
}

WEIGHTS_LISTED_IN = (
    "eva_vit",
    "image_qformer",
    "video_branch",
    "imagebind_audio",
    "imagebind_vision",
    "audio_branch",
)


def numbers(entry):
    given = entry["i"]
    if isinstance(given, list):
        return given
    first, last = given.split("..")
    return range(int(first), int(last) + 1)


def expand(entries):
    """Literal keys and their shapes."""
    for entry in entries:
        if "{i}" in entry["key"]:
            for number in numbers(entry):
                yield entry["key"].replace("{i}", str(number)), entry["shape"]
        else:
            yield entry["key"], entry["shape"]


def kind_of(name):
    signs = {
        "eva_vit_g": "eva",
        "blip2": "blip2",
        "imagebind": "imagebind",
        "LLaMA-": "language_model",
        "VL branch": "video_branch",
        "AL branch": "audio_branch",
        "pretrained_minigpt4": "projection",
    }
    return next(kind for sign, kind in signs.items() if name.startswith(sign))


def published(name):
    """All keys of a file, under the names of the assembled model."""
    file = FILES[name]
    prefix = FILE_PREFIXES[kind_of(name)]
    lists = [file.get(part, []) for part in ("keys", "trainable", "also_present_buffers")]
    return {prefix + key: shape for entries in lists for key, shape in expand(entries)}


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_accounted_for(name):
    keys = published(name)
    if "n_keys" in FILES[name]:
        assert len(keys) == FILES[name]["n_keys"]
    for key in keys:
        target = to_ours(key)
        assert droppable(key) or target is not None, key
        if not droppable(key):
            assert key in {entry.name for entry in to_published(target.name)}


def test_buffers_of_imagebind_are_droppable_but_the_scale():
    name = next(n for n in FILES if kind_of(n) == "imagebind")
    kept = [k for k in FILES[name]["non_parameter_buffers"] if not droppable(f"audio_encoder.{k}")]
    assert kept == ["modality_postprocessors.audio.1.log_logit_scale"]


@pytest.mark.parametrize("size", LANGUAGE_MODELS)
def test_the_full_model_is_assembled_from_them(size):
    """All files of a size together give every tensor of our model, in its shape, and no other."""
    shapes = Shapes()
    for name in FILES:
        other = {"7B": "13B", "13B": "7B"}[size]
        if other in name or kind_of(name) == "projection":
            continue
        for key, shape in published(name).items():
            target = None if droppable(key) else to_ours(key)
            if target is not None:
                whole = target.part == "whole"
                shapes[target.name] = tuple(shape) if whole else (3 * shape[0],)
    config = infer_config(shapes, LANGUAGE_MODELS[size], whole_vision_tower=True)
    with torch.device("meta"):
        model = VideoLlamaForConditionalGeneration(config)
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == dict(shapes)


def test_keys_of_every_model_file_of_the_kit(kit):
    """The keys a fixture says it uses are known, and are those of the kit's model."""
    whole = {n.removeprefix("weights."): t for n, t in kit.tensors("model").items()}
    assert {k: [list(t.shape), str(t.dtype).removeprefix("torch.")] for k, t in whole.items()} == (
        kit.json("model")["weights"]
    )
    for name in WEIGHTS_LISTED_IN:
        for key, shape in kit.json(name)["weights"].items():
            assert droppable(key) or to_ours(key), key
            assert list(whole[key].shape) == shape

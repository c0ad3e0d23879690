"""The complete tiny set of published files: converted, run, and converted back."""

import json
import os
from pathlib import Path

import pytest
import torch

from video_llama.checkpoints.back import to_published_files
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.load import load_model, load_processor
from video_llama.checkpoints.readers import open_tensors
from video_llama.checkpoints.sources import kinds_of
from video_llama.checkpoints.table import FILE_PREFIXES, droppable
from video_llama.checkpoints.verify import verify

LAYOUT = (
    Path(os.environ.get("VIDEO_LLAMA_PARITY_DIR", Path(__file__).parent / "kit"))
    / "checkpoint_layout"
)
FACTS = json.loads((LAYOUT / "layout.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory, heads_and_sizes):
    output = tmp_path_factory.mktemp("layout") / "ours"
    convert(LAYOUT, output, template="vicuna", overrides=heads_and_sizes(FACTS["config"]))
    return output


def test_outputs_of_the_assembled_model(kit, ours, compare):
    tensors = kit.tensors("checkpoint_layout/expected")
    model = load_model(ours, device="cpu", dtype="fp32")
    ids = tensors["in.input_ids"]
    with torch.no_grad():
        video = model.get_video_features(tensors["in.video"].transpose(1, 2))
        audio = model.get_audio_features(tensors["in.mel"])
        embeddings = torch.cat([model.get_input_embeddings()(ids), audio, video], dim=1)
        logits = model(inputs_embeds=embeddings).logits
    computed = {
        "out.video_tokens": video,
        "out.audio_tokens": audio,
        "out.inputs_embeds": embeddings,
        "out.logits": logits,
    }
    compare({n: t for n, t in tensors.items() if n.startswith("out.")}, computed)
    assert {n for n in tensors if n.startswith("in.")} == {"in.video", "in.mel", "in.input_ids"}


def test_placeholders_give_the_same_embeddings(kit, ours, compare):
    tensors = kit.tensors("checkpoint_layout/expected")
    model = load_model(ours, device="cpu", dtype="fp32")
    config = model.config
    runs = [config.audio_token_id] * config.num_audio_query_tokens
    runs += [config.video_token_id] * config.num_video_query_tokens
    ids = torch.cat([tensors["in.input_ids"], torch.tensor([runs])], dim=1)
    with torch.no_grad():
        embeddings = model.embed(
            ids,
            pixel_values_videos=tensors["in.video"].transpose(1, 2),
            input_features=tensors["in.mel"],
        )
    compare({"x": tensors["out.inputs_embeds"]}, {"x": embeddings})


def test_the_directory_verifies(ours):
    report = verify(ours, deep=True)
    assert report.passed, report.checks
    assert (report.kind, report.template, report.has_audio_branch) == ("model", "vicuna", True)
    assert load_processor(ours).num_video_tokens == FACTS["config"]["num_video_query_token"]


def test_files_are_recognised_by_their_keys():
    for name, keys in FACTS["keys"].items():
        sides = {"video_branch": "video_query_tokens", "audio_branch": "audio_query_tokens"}
        present = {key for key, _ in keys}
        assert kinds_of(LAYOUT / name) == {k for k, sign in sides.items() if sign in present}


def test_surplus_keys_are_dropped_with_a_reason(ours):
    dropped = json.loads((ours / "conversion.json").read_text(encoding="utf-8"))["dropped"]
    by_file = {entry["file"]: set() for entry in dropped}
    for entry in dropped:
        assert entry["why"]
        by_file[entry["file"]].add(entry["key"])
    used_depth = FACTS["config"]["eva"]["depth"]
    eva = by_file["eva_vit_g.pth"]
    assert {key.split(".")[0] for key in eva} == {"blocks", "norm", "head"}
    assert {key.split(".")[1] for key in eva if key.startswith("blocks.")} == {str(used_depth)}
    assert any(key.startswith("t5_proj.") for key in by_file["blip2_pretrained_flant5xxl.pth"])


def test_converting_back_gives_the_original_keys_and_tensors(ours, tmp_path):
    parts = to_published_files(ours, tmp_path / "published")
    report = json.loads((ours / "conversion.json").read_text(encoding="utf-8"))
    dropped = {(entry["file"], entry["key"]) for entry in report["dropped"]}
    names = {entry["kind"]: entry["name"] for entry in report["sources"]}
    assert set(parts) == set(names)
    for kind, path in parts.items():
        folder = LAYOUT / "llama" if kind == "language_model" else LAYOUT
        original = open_tensors(folder / names[kind])
        back = open_tensors(path / names[kind] if path.is_dir() else path)
        stray = {k for k in original.tensors if (names[kind], k) in dropped}
        prefix = FILE_PREFIXES[kind]
        # A scale that a branch file repeats belongs to ImageBind's file.
        stray |= {k for k in original.tensors if k.startswith("audio_encoder.")}
        if kind == "imagebind":
            stray = {k for k in stray if droppable(prefix + k)}
        assert set(back.tensors) == set(original.tensors) - stray
        for key in back.tensors:
            assert back.tensors[key] == original.tensors[key]
            assert torch.equal(back.read(key), original.read(key)), key


def test_what_was_converted_back_converts_again(ours, tmp_path, heads_and_sizes):
    to_published_files(ours, tmp_path / "published")
    convert(
        tmp_path / "published",
        tmp_path / "again",
        template="vicuna",
        overrides=heads_and_sizes(FACTS["config"]),
    )
    first, second = (
        open_tensors(ours / "model.safetensors"),
        open_tensors(tmp_path / "again" / "model.safetensors"),
    )
    assert first.tensors == second.tensors
    for name in first.tensors:
        assert torch.equal(first.read(name), second.read(name)), name

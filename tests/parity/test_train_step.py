"""Losses, gradients and one optimizer step against the original, stage by stage.

Dropout is off, as in the recording. Labels are the recorded ones, the drifting Vicuna masks of the
original among them: here they are inputs. Masks of our own are in test_training_text.py.
"""

import copy
import json
import os
from pathlib import Path

import pytest
import torch

from video_llama.checkpoints.table import droppable, to_ours, to_published
from video_llama.data.collator import Batch
from video_llama.processing.frames import normalize_pixels
from video_llama.processing.tokenizer import load_tokenizer
from video_llama.training.stages import STAGES, decay_groups, set_trainable
from video_llama.training.step import TrainingStep

KIT = Path(os.environ.get("VIDEO_LLAMA_PARITY_DIR", Path(__file__).parent / "kit"))
FACTS = json.loads((KIT / "train_step.json").read_text(encoding="utf-8"))
CASES = FACTS["cases"]
GRADIENT_TOLERANCE = 1e-4  # of the largest entry


@pytest.fixture(scope="module")
def tensors(kit):
    return kit.tensors("train_step")


@pytest.fixture(scope="module")
def tokenizer(kit):
    return load_tokenizer(kit.root / "tokenizer")


def our_name(published):
    target = to_ours(published)
    assert target is not None
    assert target.part == "whole"
    return target.name


def pictures(case, tensors, kit):
    """(B, T, 3, S, S): the recorded frames, as many rows as the case has samples."""
    rows = tensors[f"{case['name']}.out.labels"].shape[0]
    description = case["desc"].get("images") or case["desc"]["image"]
    if case["stage"] == "vision":
        if description.startswith("in.video"):
            return tensors["in.video"].transpose(1, 2)
        return tensors["in.image"][:, None]
    frames = kit.tensors("imagebind_vision")["in.frames_u8"]
    pixels = torch.stack([normalize_pixels(one.permute(0, 2, 3, 1).numpy()) for one in frames])
    return pixels if rows == pixels.shape[0] else pixels.flatten(0, 1)[:, None]


def token_ids(case, labels, mask, config, tokenizer, pad):
    """The ids of a case, with our placeholders where the original puts its media."""
    vision = case["stage"] == "vision"
    placeholder = config.video_token_id if vision else config.audio_token_id
    if "input_ids" in case["desc"]:
        ids = torch.tensor(case["desc"]["input_ids"])
        return ids.masked_fill(ids >= config.text_config.vocab_size, placeholder)
    run = [placeholder] * (
        config.num_video_query_tokens if vision else config.num_audio_query_tokens
    )
    prompt = [tokenizer.bos_token_id]
    before, _, after = case["desc"].get("prompt", "<ImageHere>").partition("<ImageHere>")
    for piece in (before, run, after):
        if isinstance(piece, str):
            piece = tokenizer(piece, add_special_tokens=False).input_ids if piece else []
        prompt += piece
    ids = labels.clone()  # the captions are what is learnt
    ids[:, : len(prompt)] = torch.tensor(prompt)
    return ids.masked_fill(mask == 0, pad)


@pytest.fixture
def step(kit, model, tensors, tokenizer):
    """The inputs of a case and a copy of the model with the stage's parameters trainable."""

    def prepare(case):
        copied = copy.deepcopy(model)
        trained = set_trainable(copied, STAGES[f"{case['stage']}_stage1"])
        copied.eval()  # dropout off
        name = case["name"]
        labels, mask = tensors[f"{name}.out.labels"], tensors[f"{name}.out.attention_mask"]
        pad = kit.json("training_text")["pad_id"]
        ids = token_ids(case, labels, mask, copied.config, tokenizer, pad)
        frames = pictures(case, tensors, kit)
        if case["stage"] == "vision":
            media = {"video_features": copied.get_video_features(frames)}
        else:
            features = copied.get_audio_features(frames, modality="vision")
            media = {"audio_features": features}
        return copied, trained, {"input_ids": ids, "attention_mask": mask, "labels": labels}, media

    return prepare


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_loss_and_gradients(step, tensors, compare, case):
    name = case["name"]
    copied, trained, inputs, media = step(case)
    embeddings = copied.embed(inputs["input_ids"], **media)
    loss = copied(**inputs, **media).loss
    loss.backward()
    parameters = dict(copied.named_parameters())
    gradients = {n: parameters[n].grad for n in trained}
    assert loss.item() == pytest.approx(case["loss"], abs=2e-5)
    assert int((inputs["labels"] != -100).sum()) == case["n_supervised_tokens"]
    total = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert total.item() == pytest.approx(case["grad_total_norm"], rel=GRADIENT_TOLERANCE)

    assert {our_name(n) for n in case["grad_norms"]} == set(trained)
    assert case["trainable_without_grad"] == []
    zero = {our_name(n) for n in case["trainable_with_zero_grad"]}
    for published, norm in case["grad_norms"].items():
        ours = our_name(published)
        bound = 1e-5 if ours in zero else GRADIENT_TOLERANCE * max(norm, 0.01)
        assert gradients[ours].norm().item() == pytest.approx(norm, abs=bound), published

    recorded = {n: t for n, t in tensors.items() if n.startswith(f"{name}.grad.")}
    for full_name, expected in recorded.items():
        actual = gradients[our_name(full_name.removeprefix(f"{name}.grad."))]
        bound = GRADIENT_TOLERANCE * float(expected.abs().max())
        assert float((actual - expected).abs().max()) <= bound, full_name
    outputs = {n: t for n, t in tensors.items() if n.startswith(f"{name}.out.")}
    compare(
        outputs,
        {
            f"{name}.out.labels": inputs["labels"],
            f"{name}.out.attention_mask": inputs["attention_mask"],
            f"{name}.out.inputs_embeds": embeddings.detach(),
            f"{name}.out.loss": loss.detach(),
        },
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_step_that_training_takes(step, tensors, kit, case):
    """The same losses and gradients through `TrainingStep`, from pixels and from encoder states."""
    copied, trained, inputs, _ = step(case)
    frames = pictures(case, tensors, kit)
    vision = case["stage"] == "vision"
    with torch.no_grad():
        if vision:
            states = copied.vision_branch.encode_frames(frames.flatten(0, 1))
        else:
            states = copied.audio_branch.encode_clips(frames.flatten(0, 1), "vision")
    states = states.unflatten(0, frames.shape[:2])
    for encoded, values in ((False, frames), (True, states)):
        media = {"frames": values} if vision else {"clips": values, "clip_modality": "vision"}
        batch = Batch(**inputs, **media, encoded=encoded)
        copied.zero_grad(set_to_none=True)
        losses, count = TrainingStep(copied)(batch)
        # The shift by one leaves out a first label, which the original counts but never learns.
        assert int(count) == int((inputs["labels"][:, 1:] != -100).sum())
        (losses / count).backward()
        assert (losses / count).item() == pytest.approx(case["loss"], abs=2e-5)
        parameters = dict(copied.named_parameters())
        total = torch.stack([parameters[name].grad.norm() for name in trained]).norm()
        assert total.item() == pytest.approx(case["grad_total_norm"], rel=GRADIENT_TOLERANCE)


@pytest.mark.parametrize("case", [c for c in CASES if "adamw" in c], ids=lambda case: case["name"])
def test_optimizer_step(step, tensors, compare, kit, case):
    name, settings = case["name"], case["adamw"]
    assert settings["steps"] == 1
    copied, _, inputs, media = step(case)
    optimizer = torch.optim.AdamW(
        decay_groups(copied, settings["weight_decay"]),
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
    )
    copied(**inputs, **media).loss.backward()
    optimizer.step()
    parameters = dict(copied.named_parameters())
    start = f"{name}.after_adamw_step."
    recorded = {n: t for n, t in tensors.items() if n.startswith(start)}
    # A first AdamW step moves by the sign of a gradient, so one near zero may go either way.
    computed = {n: parameters[our_name(n.removeprefix(start))].detach() for n in recorded}
    compare(recorded, computed)
    frames = pictures(case, tensors, kit)
    with torch.no_grad():
        again = copied(**inputs, video_features=copied.get_video_features(frames)).loss
    assert again.item() == pytest.approx(case["loss_after_step"], abs=1e-4)


@pytest.mark.parametrize("name", STAGES)
def test_trainable_names_and_decay(model, name):
    copied = copy.deepcopy(model)
    stage = STAGES[name]
    trained = set_trainable(copied, stage)
    recorded = {our_name(n): (shape, decay) for n, shape, decay in FACTS["trainable"][stage.branch]}
    assert set(trained) == set(recorded)
    decayed, spared = decay_groups(copied, stage.weight_decay)
    names = {id(parameter): n for n, parameter in copied.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        n for n, (_, decay) in recorded.items() if decay == "decay"
    }
    assert decayed["weight_decay"] == stage.weight_decay
    assert spared["weight_decay"] == 0.0
    for n, parameter in copied.named_parameters():
        assert n not in recorded or list(parameter.shape) == recorded[n][0]


@pytest.mark.parametrize("stage", FACTS["saved_checkpoint_keys_small_model"])
def test_saved_checkpoints_are_what_trains_and_buffers(stage):
    trained = {name for name, _, _ in FACTS["trainable"][stage]}
    for key in FACTS["saved_checkpoint_keys_small_model"][stage]:
        target = to_ours(key)
        stray = droppable(key) or (target is not None and target.name.endswith(".log_scale"))
        assert bool(stray) != (key in trained), key
    for key in trained:
        assert [entry.name for entry in to_published(our_name(key))] == [key]


def test_every_tensor_of_the_file_is_used(tensors):
    names = {case["name"] for case in CASES}
    kinds = {"out", "grad", "after_adamw_step"}
    for name in tensors:
        first, second = name.split(".")[:2]
        assert (first == "in" and second in ("video", "image")) or (
            first in names and second in kinds
        ), name

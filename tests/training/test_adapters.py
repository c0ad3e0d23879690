"""What is changed about the language model: adapters, fewer bits, less memory, half precision."""

import io
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from video_llama.checkpoints.load import load_model
from video_llama.data.collator import Collator
from video_llama.data.mixture import Draw
from video_llama.errors import OptionError, TrainingError
from video_llama.quantization import Int8Linear
from video_llama.training import adapters
from video_llama.training.checkpoint import read_checkpoint
from video_llama.training.export import export
from video_llama.training.material import open_material
from video_llama.training.optim import load_trained
from video_llama.training.prepare import prepare
from video_llama.training.step import TrainingStep
from video_llama.training.trainer import train

CPU = torch.device("cpu")


def loss_of(step, made):
    """Of four samples, without dropout."""
    dataset = open_material(made).dataset
    batch = Collator(dataset.processor)([dataset[Draw(n, 0, n, 0)] for n in range(4)])
    step.eval()
    with torch.no_grad():
        losses, count = step(batch)
    return losses.item() / int(count)


@pytest.mark.parametrize("kind", ["model", "part"])
def test_adapters_are_trained_and_merged(recipe, read_losses, kind):
    made = recipe(
        modules=["vision_branch.projector."],
        lora={"rank": 2, "alpha": 8, "targets": ["q_proj", "down_proj"]},
        **{"export.kind": kind, "schedule.peak": 3e-2},
    )
    outcome = train(made, io.StringIO())
    losses = read_losses(made.output)
    assert losses[-1] < losses[0]
    kept = read_checkpoint(outcome.checkpoint).trained
    names = {name for name in kept if ".lora_" in name}
    layer = "language_model.model.layers.1.mlp.down_proj"
    assert {f"{layer}.lora_A", f"{layer}.lora_B"} <= names
    assert len(names) == 2 * 2 * 2  # layers, targets, matrices
    prepared = prepare(made, CPU)
    load_trained(prepared.model, kept)
    adapted = loss_of(TrainingStep(prepared.model), made)
    merged = load_model(outcome.model, device="cpu")
    assert not any("lora" in name for name in merged.state_dict())
    assert loss_of(TrainingStep(merged), made) == pytest.approx(adapted, abs=1e-4)
    base = load_model(made.model.path, device="cpu")
    assert abs(loss_of(TrainingStep(base), made) - adapted) > 0.05


def test_an_adapter_goes_on_where_it_was(recipe, read_losses, tmp_path):
    changes = {"modules": [], "lora": {"rank": 2, "dropout": 0.2}}
    whole = recipe(**changes)
    train(whole, io.StringIO())
    path = Path(whole.output) / "checkpoints/step-00000002"
    again = recipe(resume=str(path), output=str(tmp_path / "again"), **changes)
    train(again, io.StringIO())
    assert read_losses(again.output) == read_losses(whole.output)[2:]
    last = "checkpoints/step-00000004/trained.safetensors"
    assert (Path(again.output) / last).read_bytes() == (Path(whole.output) / last).read_bytes()


def test_what_adapters_begin_with_follows_the_seed(recipe):
    """Or processes would train models of their own, and a run begun again another one."""

    def begun(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(7)  # whatever chance there was before
        found = prepare(recipe(lora={"rank": 2}, seed=seed), CPU).model.named_parameters()
        return {name: parameter for name, parameter in found if "lora_A" in name}

    one, again, other = begun(0), begun(0), begun(1)
    assert one
    for name, parameter in one.items():
        assert torch.equal(parameter, again[name])
        assert not torch.equal(parameter, other[name])


def test_an_adapter_that_learns_nothing_is_told(recipe, monkeypatch):
    add = adapters.add_lora

    def add_dead(language_model, settings, seed):
        add(language_model, settings, seed)
        for module in language_model.modules():
            if isinstance(module, LoraLayer):
                module.scaling["default"] = 0.0

    monkeypatch.setattr("video_llama.training.prepare.add_lora", add_dead)
    with pytest.raises(TrainingError, match="what lora names gets a gradient of zero"):
        train(recipe(lora={"rank": 2}), io.StringIO())


def test_adapters_for_layers_that_are_not_there(recipe):
    with pytest.raises(OptionError, match=r"lora.targets names 'c_attn'.*q_proj"):
        train(recipe(lora={"targets": ["c_attn"]}), io.StringIO())


def test_a_frozen_language_model_in_eight_bits(recipe, read_losses):
    plain, packed = recipe(), recipe(output="packed", **{"model.quantization": "int8"})
    one, two = (prepare(made, CPU) for made in (plain, packed))
    layers = [m for m in two.model.language_model.modules() if isinstance(m, Int8Linear)]
    assert len(layers) == 14
    losses = [loss_of(TrainingStep(p.model), plain) for p in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_bitsandbytes(recipe, kind, tmp_path):
    pytest.importorskip("bitsandbytes")
    made = recipe(**{"model.quantization": kind, "lora": {"rank": 2}, "export.kind": "model"})
    prepared = prepare(made, CPU)
    plain = loss_of(TrainingStep(prepare(recipe(), CPU).model), made)
    step = TrainingStep(prepared.model).to(CPU)
    packed = loss_of(step, made)
    assert packed == pytest.approx(plain, rel=0.25)
    assert packed != plain
    outcome = train(made, io.StringIO())
    assert outcome.step == 4
    # The model that comes out is not packed.
    weights = load_file(outcome.model / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())


def test_without_bitsandbytes(recipe, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    with pytest.raises(OptionError, match=r"needs bitsandbytes: pip install 'video-llama\[bnb\]'"):
        train(recipe(**{"model.quantization": "4bit"}), io.StringIO())


def test_computing_again_gives_the_same(recipe, read_losses, tmp_path, monkeypatch):
    calls = []
    checkpointed = adapters._checkpointed
    monkeypatch.setattr(
        adapters, "_checkpointed", lambda *a: (calls.append(1), checkpointed(*a))[1]
    )
    kept, again = (
        recipe(output=str(tmp_path / str(flag)), **{"model.gradient_checkpointing": flag})
        for flag in (False, True)
    )
    train(kept, io.StringIO())
    assert not calls
    train(again, io.StringIO())
    assert len(calls) == 4 * 2  # steps, layers
    assert read_losses(kept.output) == pytest.approx(read_losses(again.output), abs=1e-6)


def test_half_precision_trains_in_full(recipe, read_losses, tmp_path):
    full, half = (recipe(output=str(tmp_path / kind), precision=kind) for kind in ("fp32", "bf16"))
    prepared = prepare(half, CPU)
    for name, parameter in prepared.model.named_parameters():
        wanted = torch.float32 if name in prepared.trained else torch.bfloat16
        assert parameter.dtype == wanted, name
    for made in (full, half):
        train(made, io.StringIO())
    one, two = read_losses(full.output), read_losses(half.output)
    assert two == pytest.approx(one, rel=0.03)
    assert two != one


def test_the_type_of_the_weights_is_kept(recipe, save_tiny_model, tmp_path):
    base = save_tiny_model(tmp_path / "half")
    load_model(base, device="cpu", dtype="fp16").half().save_pretrained(base)
    made = recipe(**{"model.path": str(base), "schedule.steps_per_epoch": 1})
    outcome = train(made, io.StringIO())
    last = read_checkpoint(outcome.checkpoint)
    assert all(tensor.dtype == torch.float32 for tensor in last.trained.values())
    export(made, last, tmp_path / "out")
    weights = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}

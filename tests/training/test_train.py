"""Runs in one process: what is learnt, measured, written, exported."""

import errno
import fcntl
import io
import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from video_llama.chat import VideoLlama
from video_llama.checkpoints.load import kept_in_float32, load_model, load_processor
from video_llama.errors import CheckpointError, DataError, OptionError, TrainingError
from video_llama.training.checkpoint import Checkpoints, read_checkpoint
from video_llama.training.export import export
from video_llama.training.optim import make_optimizer
from video_llama.training.prepare import prepare
from video_llama.training.recipe import Recipe
from video_llama.training.step import TrainingStep
from video_llama.training.trainer import Outcome, train
from video_llama.training.validation import Measured, Validation


@dataclass(frozen=True)
class Finished:
    """A run of ten steps, and what it told."""

    recipe: Recipe
    outcome: Outcome
    text: str


@pytest.fixture(scope="module")
def finished_run(recipe_in, other_pictures, tmp_path_factory):
    made = recipe_in(tmp_path_factory.mktemp("finished"))(
        **{
            "schedule.steps_per_epoch": 10,
            "validation.data": [{"path": str(other_pictures)}],
            "validation.every": 4,
            "checkpoint.every": 3,
            "checkpoint.keep": 2,
            "export.kind": "model",
        }
    )
    out = io.StringIO()
    return Finished(made, train(made, out), out.getvalue())


@pytest.fixture
def finished(finished_run):
    """Where it wrote."""
    return finished_run.recipe.output_dir


def test_a_run_learns_measures_and_writes(finished_run, finished, read_lines):
    made, outcome = finished_run.recipe, finished_run.outcome
    figures = read_lines(finished / "metrics.jsonl")
    learnt = [one for one in figures if "loss" in one]
    measured = [one for one in figures if "validation" in one]
    assert [one["step"] for one in learnt] == list(range(1, 11))
    assert learnt[-1]["loss"] < 0.9 * learnt[0]["loss"]
    assert [one["rate"] for one in learnt] == [made.schedule.rate(step) for step in range(10)]
    assert all(one["gradient_norm"] > 0 and one["samples"] == 4 for one in learnt)
    assert [one["step"] for one in measured] == [4, 8, 10]
    assert measured[0]["validation"]["samples"] == 5
    assert 0 <= measured[-1]["validation"]["accuracy"] <= 1

    best = min(measured, key=lambda one: one["validation"]["loss"])
    assert outcome.best == (best["validation"]["loss"], best["step"])
    assert json.loads((finished / "checkpoints/best.json").read_text())["step"] == best["step"]
    kept = {path.name for path in (finished / "checkpoints").glob("step-*")}
    assert kept == {"step-00000009", "step-00000010", f"step-{best['step']:08d}"}
    assert (outcome.step, outcome.steps, outcome.loss) == (10, 10, learnt[-1]["loss"])
    assert outcome.to_dict()["stopped_by"] is None
    text = finished_run.text
    assert "tiny: 10 steps of 4 samples" in text
    assert "step 10/10  loss" in text
    assert "validation at step 4: loss" in text


def test_what_was_trained_is_in_the_model_and_nothing_else(recipe, finished, tiny_model_dir):
    before = load_file(tiny_model_dir / "model.safetensors")
    after = load_file(finished / "model/model.safetensors")
    trained = load_file(finished / "checkpoints/step-00000010/trained.safetensors")
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    prefixes = recipe().modules
    assert trained.keys() == {name for name in before if name.startswith(prefixes)}
    # A bias before a softmax over it changes nothing and may keep its value.
    assert changed <= trained.keys()
    assert len(changed) > 0.8 * len(trained)
    assert all(torch.equal(after[name], tensor) for name, tensor in trained.items())


def test_the_exported_model_answers(finished, pictures):
    picture = pictures.parent / "0.png"
    assert VideoLlama.load(finished / "model").ask(picture, "?", max_new_tokens=8)


def test_a_part_is_loaded_with_its_model(recipe, finished, pictures, tmp_path, tiny_model_dir):
    last = read_checkpoint(finished / "checkpoints/step-00000010")
    target = tmp_path / "part"
    export(recipe(**{"export.kind": "part"}), last, target)
    assert not (target / "model.safetensors").exists()
    whole, part = (VideoLlama.load(path) for path in (finished / "model", target))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, part.model.state_dict()[name]), name
    picture = pictures.parent / "1.png"
    answers = {one.ask(picture, "?", max_new_tokens=8) for one in (whole, part)}
    assert len(answers) == 1


def test_the_next_stage_begins_with_what_a_part_keeps(recipe, finished, tiny_model_dir, tmp_path):
    """In float32, whatever the model is kept in that it belongs to."""
    base, target = tmp_path / "half", tmp_path / "part"
    load_model(tiny_model_dir).half().save_pretrained(base)
    load_processor(tiny_model_dir).save_pretrained(base)
    last = read_checkpoint(finished / "checkpoints/step-00000010")
    export(recipe(**{"export.kind": "part", "model.path": str(base)}), last, target)
    made = prepare(recipe(**{"model.path": str(target)}), torch.device("cpu"))
    parameters = dict(made.model.named_parameters())
    assert set(made.trained) == set(last.trained)
    for name, tensor in last.trained.items():
        assert torch.equal(parameters[name], tensor), name


def test_what_a_model_keeps_in_float32_is_not_rounded(recipe, tiny_model_dir, tmp_path):
    """As converted with "keep": the language model in half precision, the branches not."""
    base = tmp_path / "mixed"
    model = load_model(tiny_model_dir, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0001)  # no value of half precision
    model.language_model.half()
    model.save_pretrained(base)
    load_processor(tiny_model_dir).save_pretrained(base)
    (base / "tokenizer.model").write_bytes(b"sentencepiece")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    made = recipe(
        **{
            "model.path": str(base),
            "schedule.steps_per_epoch": 1,
            "export.kind": "model",
            "schedule.start": 0.0,
        }
    )
    before = load_file(base / "model.safetensors")
    prepared = prepare(made, torch.device("cpu"))
    parameters = dict(prepared.model.named_parameters())
    assert all(torch.equal(parameters[name], before[name]) for name in prepared.trained)
    folder = train(made, io.StringIO()).model
    after = load_file(folder / "model.safetensors")
    assert {name: t.dtype for name, t in after.items()} == {n: t.dtype for n, t in before.items()}
    assert {tensor.dtype for tensor in after.values()} == {torch.float16, torch.float32}
    learnt = read_checkpoint(made.output_dir / "checkpoints/step-00000001").trained
    for name, tensor in after.items():
        assert torch.equal(tensor, learnt.get(name, before[name])), name
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert (folder / "tokenizer.model").read_bytes() == b"sentencepiece"  # for --back


def test_adapters_are_not_lost_where_their_layers_are_kept_in_float32(
    recipe, tiny_model_dir, tmp_path
):
    """The table of words says half precision, and the layers are not."""
    base = tmp_path / "mixed"
    model = load_model(tiny_model_dir, device="cpu")
    model.get_input_embeddings().half()
    model.save_pretrained(base)
    load_processor(tiny_model_dir).save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    changes = {"model.path": str(base), "lora": {"rank": 2}, "schedule.steps_per_epoch": 2}
    before = load_file(base / "model.safetensors")
    whole = train(recipe(**changes, **{"export.kind": "model"}), io.StringIO()).model
    after = load_file(whole / "model.safetensors")
    part = tmp_path / "part"
    last = read_checkpoint(tmp_path / "run/checkpoints/step-00000002")
    export(recipe(**changes, **{"export.kind": "part"}), last, part)
    layers = [name.removesuffix(".lora_A") for name in last.trained if name.endswith(".lora_A")]
    kept = kept_in_float32(part)
    assert layers
    for layer in layers:
        assert not torch.equal(after[f"{layer}.weight"].float(), before[f"{layer}.weight"].float())
        assert f"{layer}.weight" not in kept


def test_a_part_of_another_model_is_refused(recipe, finished, save_tiny_model, tmp_path):
    base = save_tiny_model(tmp_path / "base")
    last = read_checkpoint(finished / "checkpoints/step-00000010")
    export(recipe(**{"export.kind": "part", "model.path": str(base)}), last, tmp_path / "p")
    model = load_model(base, device="cpu")
    with torch.no_grad():
        model.language_model.get_output_embeddings().weight.add_(1.0)
    model.save_pretrained(base)
    with pytest.raises(CheckpointError, match="was trained on other weights than base"):
        load_model(tmp_path / "p")


def test_a_finished_run_is_left_alone(recipe, finished, other_pictures):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    made = recipe(
        **{
            "schedule.steps_per_epoch": 10,
            "validation.data": [{"path": str(other_pictures)}],
            "export.kind": "model",
            "output": str(finished),
        }
    )
    outcome = train(made, io.StringIO())
    assert outcome.step == 10
    assert outcome.loss is None
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}


@pytest.fixture
def again(finished, recipe, other_pictures, tmp_path):
    """`again(...)`: the finished run in a folder of its own, started once more."""
    shutil.copytree(finished, tmp_path / "again")

    def start(**changes):
        base = {
            "schedule.steps_per_epoch": 10,
            "validation.data": [{"path": str(other_pictures)}],
            "export.kind": "model",
            "output": str(tmp_path / "again"),
        }
        return train(recipe(**{**base, **changes}), io.StringIO()).model

    return start


def test_the_model_of_an_earlier_run_is_replaced(again, finished, tmp_path):
    """What lies in the output's `model` is from another step, as its card says."""
    model = tmp_path / "again/model"
    card = json.loads((model / "training.json").read_text())
    (model / "training.json").write_text(json.dumps({**card, "trained_sha256": "another"}))
    (model / "model.safetensors").write_bytes(b"stale")
    assert again() == model
    names = ("model.safetensors", "training.json")
    assert all(
        (model / name).read_bytes() == (finished / "model" / name).read_bytes() for name in names
    )


def test_another_kind_of_export_takes_the_place(again):
    model = again(**{"export.kind": "part"})
    assert (model / "part.json").is_file()
    assert not (model / "model.safetensors").exists()


def test_an_export_that_fails_leaves_the_one_before(again, monkeypatch, tmp_path):
    model = tmp_path / "again/model"
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    rename = Path.rename

    def fail(path, target):
        if Path(target) == model and not (path / "model.safetensors").exists():
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(TrainingError, match=r"the model .*model could not be written: Input"):
        again(**{"export.kind": "part"})
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_what_is_no_export_is_not_replaced(again, tmp_path):
    model = tmp_path / "again/model"
    shutil.rmtree(tmp_path / "again/checkpoints")
    with pytest.raises(OptionError, match="where this run would write its own model"):
        again(**{"model.path": str(model)})
    (model / "training.json").unlink()
    with pytest.raises(TrainingError, match="is not the model of a run and would be replaced"):
        again()
    assert (model / "model.safetensors").is_file()


def test_bad_samples_of_a_validation_are_named(recipe, other_pictures, read_lines, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(other_pictures.read_text())  # with two of its pictures beside it
    for number in (100, 103):
        shutil.copy(other_pictures.parent / f"{number}.png", tmp_path)
    made = recipe(**{"validation.data": [{"path": str(rows)}], "schedule.steps_per_epoch": 1})
    train(made, io.StringIO())
    named = read_lines(made.output_dir / "quarantine-validation.jsonl")
    assert [line["key"] for line in named] == [f"rows.jsonl#{number}" for number in (1, 2, 4)]
    assert "no such file" in named[0]["reason"]
    assert not (made.output_dir / "quarantine.jsonl").exists()


def test_nothing_to_validate_on_is_no_perfect_score(recipe, other_pictures, read_lines, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(other_pictures.read_text())  # without the pictures beside it
    made = recipe(**{"validation.data": [{"path": str(rows)}], "validation.every": 1})
    with pytest.raises(TrainingError, match=r"no sample of validation.data can be used, of 5.*#0"):
        train(made, io.StringIO())
    assert len(read_lines(made.output_dir / "quarantine-validation.jsonl")) == 5
    assert not (made.output_dir / "checkpoints/best.json").exists()
    assert (made.output_dir / "checkpoints/step-00000001").is_dir()


def test_a_run_that_learnt_nothing_writes_no_model(recipe, other_pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(other_pictures.read_text())  # without the pictures beside it
    made = recipe(**{"data": [{"path": str(rows)}], "schedule.steps_per_epoch": 2})
    for _ in range(2):  # and going on changes nothing
        with pytest.raises(TrainingError, match=r"all 8 samples are bad.*rows\.jsonl#"):
            train(made, io.StringIO())
    assert not (made.output_dir / "model").exists()


def test_a_warm_up_longer_than_the_run_is_told(recipe):
    made = recipe(**{"schedule.warmup_steps": 100, "schedule.steps_per_epoch": 1})
    out = io.StringIO()
    train(made, out)
    assert "never to schedule.peak" in out.getvalue()
    assert "schedule.warmup_steps is 100" in out.getvalue()


def test_too_little_memory_is_told_with_what_helps(recipe, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(TrainingStep, "forward", fail)
    with pytest.raises(TrainingError, match=r"not enough memory for step 1: .*accumulation"):
        train(recipe(), io.StringIO())


def test_too_little_memory_for_a_validation_loses_no_step(recipe, other_pictures, monkeypatch):
    score = TrainingStep.score

    def fail(self, batch):
        if not self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return score(self, batch)

    monkeypatch.setattr(TrainingStep, "score", fail)
    made = recipe(
        **{
            "validation.data": [{"path": str(other_pictures)}],
            "validation.every": 3,
            "checkpoint.every": 100,
        }
    )
    with pytest.raises(TrainingError, match=r"not enough memory for validation: .*accumulation"):
        train(made, io.StringIO())
    assert (made.output_dir / "checkpoints/step-00000003").is_dir()


def test_a_loss_that_is_no_number_is_never_the_best(recipe, other_pictures, monkeypatch):
    losses = iter([math.nan, 2.0, math.nan])
    monkeypatch.setattr(Validation, "measure", lambda *_: Measured(next(losses), 0.0, 1, 1, 0))
    made = recipe(
        **{
            "schedule.steps_per_epoch": 3,
            "validation.data": [{"path": str(other_pictures)}],
            "validation.every": 1,
        }
    )
    train(made, io.StringIO())
    assert Checkpoints(made.output_dir / "checkpoints", keep=3).best().name == "step-00000002"


def test_accumulation_changes_nothing(recipe, quiet_model_dir, read_losses, tmp_path):
    """The loss is one mean over the tokens of all micro-steps."""
    for number in (1, 2):
        output = str(tmp_path / str(number))
        changes = {"model.path": str(quiet_model_dir), "output": output}
        train(recipe(accumulation=number, **changes), io.StringIO())
    one, two = (read_losses(tmp_path / str(number)) for number in (1, 2))
    assert one == pytest.approx(two, abs=1e-5)


def test_gradients_are_cut_to_a_length(recipe, monkeypatch, tmp_path):
    seen = []

    def watched(*arguments):
        optimizer = make_optimizer(*arguments)
        take = optimizer.step

        def step():
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            seen.append(float(torch.stack([g.norm() for g in gradients]).norm()))
            return take()

        optimizer.step = step
        return optimizer

    monkeypatch.setattr("video_llama.training.trainer.make_optimizer", watched)
    train(recipe(**{"optimizer.clip": 0.5, "schedule.steps_per_epoch": 2}), io.StringIO())
    assert seen == pytest.approx([0.5, 0.5], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"data": []}, OptionError, "data is empty; name what to learn from"),
        ({"data": [{"path": "gone.jsonl"}]}, DataError, "there is no file of data gone.jsonl"),
        ({"modules": ["nothing."]}, OptionError, "tiny trains 'nothing.', which this model"),
        (
            {"modules": ["audio_branch.imagebind.vision."]},
            OptionError,
            "which branch 'vision' never uses",
        ),
        (
            {"modules": ["audio_branch.projector."]},
            TrainingError,
            "'audio_branch.projector.weight' is to be trained, but the data of step 1",
        ),
        (
            {"modules": ["language_model.model.layers.0."], "model.quantization": "int8"},
            OptionError,
            "model.quantization is for a frozen language model",
        ),
        (
            {"modules": ["vision_branch.query_tokens"], "cache": {"path": "kept"}},
            OptionError,
            "cache.path keeps what comes out of 'vision_branch.query_tokens'",
        ),
        ({"resume": "step-7"}, TrainingError, "there is no checkpoint step-7"),
        ({"device": "banana"}, OptionError, "the device banana is not there; give 'auto'"),
        ({"device": "meta"}, OptionError, "device 'meta' cannot train"),
        ({"device": "cpu:0"}, OptionError, "device 'cpu:0' names one of several; give 'cpu'"),
    ],
)
def test_runs_that_cannot_begin(recipe, changes, error, said):
    with pytest.raises(error) as told:
        train(recipe(**changes), io.StringIO())
    assert said in str(told.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device here")
def test_an_accelerator_that_is_not_there_is_not_replaced(recipe):
    with pytest.raises(OptionError, match="the device cuda is not there; give 'auto', 'cpu'"):
        train(recipe(device="cuda"), io.StringIO())


def test_one_run_at_a_time_in_a_folder(recipe):
    made = recipe()
    made.output_dir.mkdir(parents=True)
    with (made.output_dir / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process is training in"):
            train(made, io.StringIO())


def test_where_there_are_no_locks_it_is_told(recipe, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    out = io.StringIO()
    assert train(recipe(**{"schedule.steps_per_epoch": 1}), out).step == 1
    assert "warning: there are no locks in" in out.getvalue()


def test_homes_are_spelled_out(recipe, monkeypatch, tmp_path, pictures):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(pictures.parent)
    data = [{"path": "~/pictures/rows.jsonl", "media": "~/pictures"}]
    changes = {"data": data, "output": "~/run", "cache": {"path": "~/kept"}}
    train(recipe(**changes, **{"schedule.steps_per_epoch": 1}), io.StringIO())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "pictures", "run"]


def test_a_part_in_a_folder_behind_a_link_finds_its_model(recipe, tmp_path, save_tiny_model):
    base = save_tiny_model(tmp_path / "models/base")
    (tmp_path / "disk/far/away").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk/far/away")
    made = recipe(
        **{
            "model.path": str(base),
            "output": str(tmp_path / "runs/one"),
            "export.kind": "part",
            "schedule.steps_per_epoch": 1,
        }
    )
    assert load_model(train(made, io.StringIO()).model, device="cpu")


def test_workers_read_the_same(recipe, read_losses, tmp_path):
    for workers in (0, 2):
        made = recipe(workers=workers, output=str(tmp_path / str(workers)))
        train(replace(made, schedule=replace(made.schedule, steps_per_epoch=3)), io.StringIO())
    assert read_losses(tmp_path / "0") == read_losses(tmp_path / "2")

"""Broken off and started again, a run ends with the same bytes as one that was not."""

import io
import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from video_llama.checkpoints.load import load_model
from video_llama.data.formats import DatasetSpec
from video_llama.errors import DataError, TrainingError
from video_llama.training import atomic
from video_llama.training.checkpoint import Checkpoints
from video_llama.training.marks import run_marks
from video_llama.training.step import TrainingStep
from video_llama.training.trainer import train

STEPS = 6


@pytest.fixture
def long_recipe(recipe, other_pictures):
    """Six steps with dropout, a checkpoint after each, validation on the way."""

    def make(**changes):
        return recipe(
            **{
                "schedule.steps_per_epoch": STEPS // 2,
                "schedule.epochs": 2,
                "checkpoint.every": 1,
                "validation.data": [{"path": str(other_pictures)}],
                "validation.every": 3,
                "logging.every": 3,
                **changes,
            }
        )

    return make


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where the uninterrupted run is; the first test that needs it makes it."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def uninterrupted(whole, long_recipe):
    if not whole.exists():
        train(long_recipe(output=str(whole)), io.StringIO())
    return whole


def final_bytes(folder: Path) -> bytes:
    return (folder / f"checkpoints/step-{STEPS:08d}/trained.safetensors").read_bytes()


def figures(folder: Path, read_lines) -> list[dict]:
    """The lines of metrics, without what depends on time."""
    timed = ("seconds", "samples_per_second")
    return [
        {name: value for name, value in line.items() if name not in timed}
        for line in read_lines(folder / "metrics.jsonl")
    ]


class Grows:
    """Whether something new is in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = self._names()

    def __call__(self) -> bool:
        return bool(self._names() - self.before)

    def _names(self) -> set[str]:
        return {path.name for path in self.folder.glob("*")}


def wait_for(condition, process, seconds=60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)
    return process.is_alive()


def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    long_recipe, uninterrupted, start, read_lines
):
    made = long_recipe()
    folder = made.output_dir
    chance = random.Random(7)
    kills = 0
    for _ in range(40):
        process = start(lambda: train(made, io.StringIO()).step)
        # Somewhere in the middle of the next steps, once it has got going.
        if wait_for(Grows(folder / "checkpoints"), process):
            time.sleep(chance.uniform(0.0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        how, _ = process.end()
        kills += how == "died"
        if (folder / f"checkpoints/step-{STEPS:08d}").exists():
            break
    assert kills >= 2
    assert train(made, io.StringIO()).step == STEPS
    assert final_bytes(folder) == final_bytes(uninterrupted)
    assert figures(folder, read_lines) == figures(uninterrupted, read_lines)
    assert not list(folder.rglob(f"{atomic.HALF_WRITTEN}*"))


@pytest.mark.parametrize("after", ["trained", "optimizer", "rename"])
def test_killed_while_a_checkpoint_is_written(
    long_recipe, uninterrupted, start, monkeypatch, after
):
    """The process dies between the files of the checkpoint of step 3, or before its renaming."""
    made = long_recipe()

    def run():
        from video_llama.training import checkpoint

        write, sync = checkpoint.save_file, atomic.sync

        def save(tensors, path):
            write(tensors, path)
            if "step-00000003" in str(path) and after in path.name:
                os.kill(os.getpid(), signal.SIGKILL)

        def bring(path):
            sync(path)
            if after == "rename" and "step-00000003" in path.name:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save_file, atomic.sync = save, bring
        train(made, io.StringIO())

    assert start(run).end() == ("died", -signal.SIGKILL)
    folder = made.output_dir / "checkpoints"
    assert list(folder.glob(f"{atomic.HALF_WRITTEN}*"))
    assert not (folder / "step-00000003").exists()
    train(made, io.StringIO())
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)
    assert not list(folder.glob(f"{atomic.HALF_WRITTEN}*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_finishes_the_step(long_recipe, uninterrupted, start, number, tmp_path):
    made = long_recipe(**{"checkpoint.every": 100})
    out = tmp_path / "out.txt"

    def run():
        with out.open("w") as file:
            outcome = train(made, file)
        return outcome.step, outcome.stopped_by, outcome.model

    process = start(run)
    assert wait_for(lambda: out.is_file() and "loss" in out.read_text(), process)
    os.kill(process.pid, number)
    how, (step, by, model) = process.end()
    assert (how, by, model) == ("gave", signal.Signals(number).name, None)
    assert 0 < step < STEPS
    assert (made.output_dir / f"checkpoints/step-{step:08d}").is_dir()
    train(made, io.StringIO())
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)


def test_a_damaged_checkpoint_is_told_and_left_aside(long_recipe, uninterrupted, tmp_path):
    made = long_recipe()
    shutil.copytree(uninterrupted, made.output_dir)
    newest = made.output_dir / f"checkpoints/step-{STEPS:08d}"
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "optimizer.safetensors").write_bytes(data)
    out = io.StringIO()
    outcome = train(made, out)
    assert f"the checkpoint of step {STEPS} is damaged (optimizer.safetensors" in out.getvalue()
    assert f"going on from step {STEPS - 1}" in out.getvalue()
    assert outcome.step == STEPS
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)


def test_nothing_begins_anew_over_damaged_checkpoints(long_recipe, uninterrupted):
    made = long_recipe()
    shutil.copytree(uninterrupted, made.output_dir)
    for path in (made.output_dir / "checkpoints").glob("step-*/state.json"):
        path.write_text("")
    figures = (made.output_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(TrainingError, match=r"none of the checkpoints in .* can be used"):
        train(made, io.StringIO())
    assert (made.output_dir / "metrics.jsonl").read_bytes() == figures


def test_a_copy_of_a_checkpoint_is_none(long_recipe, uninterrupted):
    made = long_recipe()
    shutil.copytree(uninterrupted, made.output_dir)
    newest = made.output_dir / f"checkpoints/step-{STEPS:08d}"
    shutil.copytree(newest, newest.with_name(newest.name + "-copy"))
    assert train(made, io.StringIO()).step == STEPS


def test_a_checkpoint_by_its_folder(long_recipe, uninterrupted):
    path = uninterrupted / f"checkpoints/step-{STEPS - 1:08d}"
    out = io.StringIO()
    made = long_recipe(resume=str(path))
    train(made, out)
    assert f"going on from step {STEPS - 1}" in out.getvalue()
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)


def test_the_last_checkpoint_of_another_folder_is_exported(long_recipe, uninterrupted):
    path = uninterrupted / f"checkpoints/step-{STEPS:08d}"
    made = long_recipe(**{"resume": str(path), "export.kind": "part"})
    assert train(made, io.StringIO()).model == made.output_dir / "model"
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)


def test_an_older_checkpoint_sets_later_ones_aside(long_recipe, uninterrupted):
    """Step 6 is there already, and is learnt and written again; the first one is kept elsewhere."""
    made = long_recipe(resume="auto")
    shutil.copytree(uninterrupted, made.output_dir)
    folder = made.output_dir / "checkpoints"
    last = folder / f"step-{STEPS:08d}"
    before = last.stat().st_ino
    out = io.StringIO()
    train(replace(made, resume=str(folder / f"step-{STEPS - 1:08d}")), out)
    aside = folder / "aside-1"
    assert f"checkpoints that do not lead to this one are set aside in {aside}" in out.getvalue()
    assert (aside / last.name).stat().st_ino == before
    assert (aside / "metrics.jsonl").is_file()
    assert last.stat().st_ino != before
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)


def test_never_touches_no_earlier_run(long_recipe, uninterrupted):
    made = long_recipe(output=str(uninterrupted), resume="never")
    with pytest.raises(TrainingError, match="has checkpoints of an earlier run; give resume=auto"):
        train(made, io.StringIO())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "had seed = 0, now it is 1"),
        ({"batch": 2}, "had batch = 4, now it is 2"),
        ({"schedule.start": 1.0}, "had schedule.start = 0.001, now it is 1.0"),
        ({"lora": {"rank": 2}}, "had lora.alpha = null, now it is 16.0"),
    ],
)
def test_another_run_is_not_gone_on_with(long_recipe, uninterrupted, changes, said):
    with pytest.raises(TrainingError, match=said):
        train(long_recipe(output=str(uninterrupted), **changes), io.StringIO())


def test_what_went_astray_goes_on_with_other_rates_and_clipping(long_recipe, uninterrupted):
    made = long_recipe(**{"schedule.peak": 1e-3, "optimizer.clip": 0.5})
    shutil.copytree(uninterrupted, made.output_dir)
    shutil.rmtree(made.output_dir / f"checkpoints/step-{STEPS:08d}")
    out = io.StringIO()
    train(made, out)
    assert "warning: optimizer.clip was null and is 0.5 from here on" in out.getvalue()
    assert "warning: schedule.peak was 0.003 and is 0.001 from here on" in out.getvalue()
    assert final_bytes(made.output_dir) != final_bytes(uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_learnt_is_saved_before_a_validation(
    long_recipe, uninterrupted, start, read_lines, number
):
    """A signal in the middle of the validation of step 3; the next start makes up for it."""
    made = long_recipe()

    def run():
        score = TrainingStep.score

        def strike(self, batch):
            if not self.training:
                os.kill(os.getpid(), number)
            return score(self, batch)

        TrainingStep.score = strike
        outcome = train(made, io.StringIO())
        return outcome.step, outcome.stopped_by

    ended = ("gave", (3, "SIGTERM")) if number == signal.SIGTERM else ("died", -signal.SIGKILL)
    assert start(run).end() == ended
    saved = made.output_dir / "checkpoints/step-00000003/state.json"
    assert json.loads(saved.read_text())["measured"] == 0
    assert not any("validation" in line for line in figures(made.output_dir, read_lines))
    assert train(made, io.StringIO()).step == STEPS
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)
    assert figures(made.output_dir, read_lines) == figures(uninterrupted, read_lines)
    best = "checkpoints/best.json"
    assert (made.output_dir / best).read_bytes() == (uninterrupted / best).read_bytes()


def test_killed_when_a_validation_is_written_down(long_recipe, uninterrupted, start, read_lines):
    """Its figures are there by then, and are not there twice in the end."""
    made = long_recipe()

    def run():
        Checkpoints.renew = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        train(made, io.StringIO())

    assert start(run).end() == ("died", -signal.SIGKILL)
    assert any("validation" in line for line in figures(made.output_dir, read_lines))
    train(made, io.StringIO())
    assert figures(made.output_dir, read_lines) == figures(uninterrupted, read_lines)


def test_a_validation_that_is_added_to_a_finished_run_is_done(recipe, other_pictures, read_lines):
    made = recipe()
    train(made, io.StringIO())
    added = replace(
        made,
        validation=replace(made.validation, data=(DatasetSpec(str(other_pictures)),)),
        export=replace(made.export, kind="part", checkpoint="best"),
    )
    out = io.StringIO()
    train(added, out)
    assert "none was validated" not in out.getvalue()
    assert read_lines(made.output_dir / "metrics.jsonl")[-1]["validation"]["samples"] == 5
    assert Checkpoints(made.output_dir / "checkpoints", 3).best().name == "step-00000004"


def test_a_run_from_elsewhere_goes_on_from_there_again(long_recipe, uninterrupted, start):
    """Killed before the first checkpoint of its own, and started again with resume=auto."""
    made = long_recipe(resume=str(uninterrupted / "checkpoints/step-00000005"))

    def run():
        TrainingStep.forward = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        train(made, io.StringIO())

    assert start(run).end() == ("died", -signal.SIGKILL)
    out = io.StringIO()
    train(replace(made, resume="auto"), out)
    assert "going on from step 5" in out.getvalue()
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)


def forget_marks(folder: Path) -> None:
    """As checkpoints were written before they had marks."""
    for path in folder.glob("checkpoints/step-*/state.json"):
        state = json.loads(path.read_text())
        del state["marks"]
        path.write_text(json.dumps(state))


@pytest.mark.parametrize("marked", [True, False])
def test_other_rows_are_not_gone_on_with(long_recipe, uninterrupted, pictures, marked):
    made = long_recipe()
    shutil.copytree(uninterrupted, made.output_dir)
    if not marked:
        forget_marks(made.output_dir)
    text = pictures.read_text()
    pictures.write_text("".join(text.splitlines(keepends=True)[:-1]))
    error, said = (TrainingError, r"data\.0 had another") if marked else (DataError, "of rows")
    try:
        with pytest.raises(error, match=said):
            train(made, io.StringIO())
    finally:
        pictures.write_text(text)


def test_edited_rows_are_not_gone_on_with(long_recipe, uninterrupted, pictures):
    made = long_recipe()
    shutil.copytree(uninterrupted, made.output_dir)
    text = pictures.read_text()
    pictures.write_text(text.replace("red", "tan"))
    try:
        with pytest.raises(TrainingError, match=r"data\.0 had another content when the run"):
            train(made, io.StringIO())
    finally:
        pictures.write_text(text)


def test_another_model_to_begin_with_is_not_gone_on_with(recipe, save_tiny_model, tmp_path):
    """The stage before was trained again in between, into the same folder."""
    base = save_tiny_model(tmp_path / "base")
    made = recipe(**{"model.path": str(base), "schedule.steps_per_epoch": 1})
    train(made, io.StringIO())
    model = load_model(base, device="cpu")
    with torch.no_grad():
        model.vision_branch.projector.bias.add_(1.0)
    model.save_pretrained(base)
    with pytest.raises(TrainingError, match=r"model\.path had other weights when the run"):
        train(made, io.StringIO())


def test_checkpoints_without_marks_are_gone_on_with(long_recipe, uninterrupted):
    made = long_recipe()
    shutil.copytree(uninterrupted, made.output_dir)
    forget_marks(made.output_dir)
    shutil.rmtree(made.output_dir / f"checkpoints/step-{STEPS:08d}")
    train(made, io.StringIO())
    assert final_bytes(made.output_dir) == final_bytes(uninterrupted)


def test_shards_are_marked_by_names_and_sizes(recipe, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"one")
    made = recipe(data=[{"path": str(tmp_path)}])
    before = run_marks(made)
    (tmp_path / "b.tar").write_bytes(b"two")
    after = run_marks(made)
    assert before["model.path"] == after["model.path"]
    assert before["data.0"] != after["data.0"]


@pytest.mark.parametrize("edited", [False, True])
def test_the_best_is_forgotten_when_other_samples_are_measured(
    long_recipe, uninterrupted, other_pictures, edited
):
    made = long_recipe(**({} if edited else {"validation.samples": 2}))
    shutil.copytree(uninterrupted, made.output_dir)
    shutil.rmtree(made.output_dir / f"checkpoints/step-{STEPS:08d}")
    path = made.output_dir / f"checkpoints/step-{STEPS - 1:08d}/state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "best": [0.0, STEPS - 1]}))
    text, out = other_pictures.read_text(), io.StringIO()
    try:
        other_pictures.write_text(text.replace("red", "tan") if edited else text)
        outcome = train(made, out)
    finally:
        other_pictures.write_text(text)
    said = "the best validation so far is forgotten: what is validated on has changed"
    assert said in out.getvalue()
    assert outcome.best is not None
    assert outcome.best[0] > 0
    assert outcome.best[1] == STEPS
    best = json.loads((made.output_dir / "checkpoints/best.json").read_text())
    assert best["step"] == STEPS


def test_what_may_change_may_change(long_recipe, uninterrupted, read_lines):
    """Steps that were done already are not done again, whatever is logged or kept."""
    changes = {"logging.every": 1, "checkpoint.keep": 5, "workers": 0, "bad_samples.min_count": 3}
    outcome = train(long_recipe(output=str(uninterrupted), **changes), io.StringIO())
    assert outcome.step == STEPS


def test_a_checkpoint_holds_what_trains(long_recipe, uninterrupted):
    folder = uninterrupted / f"checkpoints/step-{STEPS:08d}"
    trained = load_file(folder / "trained.safetensors")
    memory = load_file(folder / "optimizer.safetensors")
    assert all(name.startswith(long_recipe().modules) for name in trained)
    kinds = {f"{kind} {name}" for name in trained for kind in ("exp_avg", "exp_avg_sq", "step")}
    assert set(memory) == kinds

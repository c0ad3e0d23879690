"""Several processes: the same losses as one, shared layers, and what happens when one is lost."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
from torch.optim import optimizer

from video_llama.errors import TrainingError
from video_llama.training.presets import recipe_text
from video_llama.training.trainer import train
from video_llama.training.validation import Validation

TOLERANCE = 1e-5
STEPS = 4


@pytest.fixture
def quiet_recipe(recipe, quiet_model_dir, tmp_path):
    """Without dropout, whose chance is another one in every process."""

    def make(name, **changes):
        output = str(tmp_path / name)
        base = {"model.path": str(quiet_model_dir), "output": output, "timeout": 30.0}
        return recipe(**{**base, **changes})

    return make


def run(made):
    """In a forked process: train, and say how it ended."""

    def go():
        return train(made, io.StringIO()).to_dict()

    return go


def same_weights(one, two, tolerance=1e-4):
    """Adam divides by the size of gradients, so rounding shows more than in losses."""
    first, second = (
        load_file(made.output_dir / "checkpoints/step-00000004/trained.safetensors")
        for made in (one, two)
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert float((tensor - second[name]).abs().max()) < tolerance, name


def norms(made, read_lines):
    """Lengths of gradients, which Adam does not care for."""
    figures = read_lines(made.output_dir / "metrics.jsonl")
    return [one["gradient_norm"] for one in figures if "loss" in one]


def test_two_give_the_losses_of_one(quiet_recipe, ranks, read_losses, read_lines, other_pictures):
    measured = {"validation.data": [{"path": str(other_pictures)}], "validation.every": 3}
    one, two = (quiet_recipe(name, accumulation=2, **measured) for name in ("one", "two"))
    train(one, io.StringIO())
    for process in ranks(run(two), 2):
        how, outcome = process.end(25)
        assert (how, outcome["step"]) == ("gave", STEPS), outcome
    assert read_losses(one.output_dir) == pytest.approx(read_losses(two.output_dir), abs=TOLERANCE)
    assert norms(one, read_lines) == pytest.approx(norms(two, read_lines), rel=1e-4)
    same_weights(one, two)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "modules": ["language_model.", "vision_branch.projector."],
            "optimizer.clip": 0.5,
            "accumulation": 2,
        },
        {
            "modules": ["vision_branch.projector."],
            "lora": {"rank": 2},
            "model.gradient_checkpointing": True,
        },
    ],
    ids=["trained", "lora"],
)
def test_shared_layers_change_nothing(quiet_recipe, ranks, read_losses, read_lines, changes):
    one, two = (quiet_recipe(name, **changes) for name in ("one", "two"))
    train(one, io.StringIO())
    shared = quiet_recipe("two", parallel="fsdp", **changes)
    for process in ranks(run(shared), 2):
        how, outcome = process.end(25)
        assert how == "gave", outcome
    assert read_losses(one.output_dir) == pytest.approx(read_losses(two.output_dir), abs=TOLERANCE)
    assert norms(one, read_lines) == pytest.approx(norms(two, read_lines), rel=1e-4)
    same_weights(one, two, 1e-3)


def test_shared_layers_go_on_where_they_were(quiet_recipe, ranks, read_losses):
    """Broken off after two steps; the moments of shared weights are gathered and given back."""
    changes = {"modules": ["language_model."], "parallel": "fsdp"}
    made = quiet_recipe("run", **changes, **{"checkpoint.every": 2})
    for process in ranks(run(made), 2):
        assert process.end()[0] == "gave"
    whole = read_losses(made.output_dir)
    path = made.output_dir / "checkpoints/step-00000002"
    again = quiet_recipe("again", resume=str(path), **changes)
    for process in ranks(run(again), 2):
        how, outcome = process.end(25)
        assert how == "gave", outcome
    assert read_losses(again.output_dir) == pytest.approx(whole[2:], abs=TOLERANCE)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_batch_of_bad_samples_in_one_process(
    quiet_recipe, ranks, read_losses, parallel, tmp_path, pictures
):
    """Half of the rows are bad, so a process often has nothing to learn; the others go on."""
    folder = tmp_path / "half"
    shutil.copytree(pictures.parent, folder)
    for number in range(1, 12, 2):
        (folder / f"{number}.png").write_bytes(b"no picture")
    changes = {
        "data": [{"path": str(folder / "rows.jsonl")}],
        "batch": 2,
        "bad_samples": {"max_share": 1.0},
        "validation.data": [{"path": str(folder / "rows.jsonl")}],
    }
    one = quiet_recipe("one", **changes)
    train(one, io.StringIO())
    two = quiet_recipe("two", parallel=parallel, **changes)
    for process in ranks(run(two), 2):
        how, outcome = process.end(25)
        assert how == "gave", outcome
    assert read_losses(one.output_dir) == pytest.approx(read_losses(two.output_dir), abs=TOLERANCE)
    for name, least in (("quarantine.jsonl", 3), ("quarantine-validation.jsonl", 6)):
        bad = (one.output_dir / name).read_text()
        assert bad == (two.output_dir / name).read_text()
        assert bad.count("png") >= least


def test_a_lost_process_stops_the_others(quiet_recipe, ranks):
    made = quiet_recipe("run", **{"schedule.steps_per_epoch": 10_000})
    processes = ranks(run(made), 2)
    metrics = made.output_dir / "metrics.jsonl"
    end = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(processes[1].pid, signal.SIGKILL)
    started = time.monotonic()
    how, message = processes[0].end(40)
    assert how == "raised", message
    assert "TrainingError: a process of the run is gone or did not answer" in message
    assert time.monotonic() - started < 35


def test_a_process_that_hangs_is_given_up(quiet_recipe, ranks):
    made = quiet_recipe("run", timeout=2.0, **{"schedule.steps_per_epoch": 10_000})
    processes = ranks(run(made), 2)
    metrics = made.output_dir / "metrics.jsonl"
    end = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(processes[1].pid, signal.SIGSTOP)
    how, message = processes[0].end(30)
    assert how == "raised", message
    assert "TrainingError: a process of the run is gone or did not answer" in message


def as_accelerators_do(made):
    """`run`, with updates of many tensors at once where they can be, as by default on a GPU."""

    def go():
        optimizer._get_foreach_kernels_supported_devices = lambda: ["cpu", "cuda"]
        return run(made)()

    return go


def test_shared_and_whole_parameters_are_updated_together(quiet_recipe, ranks):
    made = quiet_recipe("run", modules=["language_model.", "vision_branch."], parallel="fsdp")
    for process in ranks(as_accelerators_do(made), 2):
        how, outcome = process.end(25)
        assert how == "gave", outcome


def test_what_shared_layers_remember_is_kept_after_a_validation(
    quiet_recipe, ranks, other_pictures
):
    changes = {"validation.data": [{"path": str(other_pictures)}], "validation.every": 2}
    made = quiet_recipe("run", modules=["language_model."], parallel="fsdp", **changes)
    for process in ranks(run(made), 2):
        how, outcome = process.end(25)
        assert how == "gave", outcome
    folder = made.output_dir / "checkpoints/step-00000004"
    remembered = load_file(folder / "optimizer.safetensors")
    for name in load_file(folder / "trained.safetensors"):
        assert f"exp_avg {name}" in remembered


def failing_validation(made, rank):
    """`run`, in which one process cannot read a shard that is validated on."""

    def go():
        def batches(self):
            if self.processes.rank == rank:
                raise TrainingError("a shard is damaged")
            return iter(())

        Validation._batches = batches
        return run(made)()

    return go


@pytest.mark.parametrize("rank", [0, 1])
def test_a_validation_that_fails_in_one_process(quiet_recipe, ranks, rank, other_pictures):
    made = quiet_recipe("run", **{"validation.data": [{"path": str(other_pictures)}]})
    ends = [process.end(25) for process in ranks(failing_validation(made, rank), 2)]
    assert [how for how, _ in ends] == ["raised", "raised"]
    assert ends[rank][1] == "TrainingError: a shard is damaged"
    assert "another process failed: " in ends[1 - rank][1]
    assert "a shard is damaged" in ends[1 - rank][1]
    assert (made.output_dir / "checkpoints/step-00000004").is_dir()


def test_a_batch_that_cannot_be_shared(quiet_recipe, ranks):
    for process in ranks(run(quiet_recipe("run", batch=3)), 2):
        how, message = process.end()
        assert (how, "give a multiple of 2" in message) == ("raised", True)


def test_torchrun(quiet_recipe, read_losses, tmp_path):
    """As a user starts it."""
    one, two = quiet_recipe("one"), quiet_recipe("two")
    train(one, io.StringIO())
    path = tmp_path / "recipe.json"
    path.write_text(recipe_text(two))
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        (*command, "-m", "video_llama", "train", str(path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_losses(one.output_dir) == pytest.approx(read_losses(two.output_dir), abs=TOLERANCE)
    assert done.stderr.count("4 steps of 4 samples by 2 processes") == 1

"""What a run writes: whole or not at all, and what a full disk does."""

import io
import json
import os
import resource
import time
from dataclasses import replace

import pytest
import torch

from video_llama import whole_file
from video_llama.data.dataset import Rejected
from video_llama.errors import TrainingError
from video_llama.training import atomic
from video_llama.training.checkpoint import (
    Checkpoints,
    RunState,
    read_checkpoint,
    require_same_run,
)
from video_llama.training.metrics import Metrics
from video_llama.training.progress import TrainingProgress, spell_seconds
from video_llama.training.quarantine import Quarantine, read_lines
from video_llama.training.recipe import BadSampleSettings
from video_llama.training.trainer import train


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.full((3,), float(step))}


def save(checkpoints: Checkpoints, step: int, best=None) -> None:
    checkpoints.save(
        RunState(step, {}, {}, best=best), tensors(step), {"step a.weight": torch.ones(1)}
    )


def test_the_latest_and_the_best_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept", keep=2)
    for step in range(1, 6):
        save(checkpoints, step, best=(0.5, 2) if step >= 2 else (0.9, 1))
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best() == checkpoints.path(2)
    assert checkpoints.latest() == (checkpoints.path(5), [])
    assert torch.equal(
        read_checkpoint(checkpoints.path(4)).trained["a.weight"], torch.full((3,), 4.0)
    )


def test_later_checkpoints_are_set_aside(tmp_path):
    """They are counted no more among those that are kept."""
    checkpoints = Checkpoints(tmp_path / "kept", keep=2)
    other = Checkpoints(tmp_path / "other", keep=9)
    for step in range(1, 7):
        save(other, step, best=(0.5, 5))
        save(checkpoints, step, best=(0.5, 3))
    aside = checkpoints.set_aside(read_checkpoint(checkpoints.path(5)))
    assert aside is not None
    assert [path.name for path in aside.iterdir()] == ["step-00000006"]
    assert checkpoints.set_aside(read_checkpoint(checkpoints.path(5))) is None
    assert checkpoints.steps() == [3, 5]
    checkpoints.set_aside(read_checkpoint(other.path(2)))
    assert checkpoints.steps() == []
    save(checkpoints, 3)
    assert checkpoints.best() is None
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "aside-1",
        "aside-2",
        "step-00000003",
    ]


def test_damaged_later_checkpoints_crowd_out_no_new_one(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept", keep=2)
    for step in range(1, 7):
        save(checkpoints, step)
    save(checkpoints, 2)
    assert 2 in checkpoints.steps()


def test_settings_that_came_later_have_a_value_in_earlier_runs():
    require_same_run({"seed": 1}, {"seed": 1, "captions": "captions"})
    with pytest.raises(TrainingError, match='had captions = "captions", now it is "descriptions"'):
        require_same_run({"seed": 1}, {"seed": 1, "captions": "descriptions"})


@pytest.mark.parametrize("file", ["trained.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_checkpoint_is_not_the_latest(tmp_path, file, damage):
    checkpoints = Checkpoints(tmp_path / "kept", keep=3)
    for step in (1, 2):
        save(checkpoints, step)
    path = checkpoints.path(2) / file
    data = path.read_bytes()
    changed = (
        data.replace(b'"version": 1', b'"version": 9') if file == "state.json" else data[:-1] + b"!"
    )
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:10] if damage == "cut" else changed)
    found, told = checkpoints.latest()
    assert found == checkpoints.path(1)
    assert len(told) == 1
    assert "the checkpoint of step 2 is damaged" in told[0]
    if damage != "gone" or file != "state.json":
        with pytest.raises(TrainingError, match="is damaged"):
            read_checkpoint(checkpoints.path(2))


def test_a_damaged_checkpoint_is_written_anew(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept", keep=3)
    save(checkpoints, 1)
    (checkpoints.path(1) / "trained.safetensors").write_bytes(b"no")
    save(checkpoints, 1)
    assert torch.equal(read_checkpoint(checkpoints.path(1)).trained["a.weight"], torch.ones(3))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000001"]


def test_a_full_disk_is_told_and_what_was_written_stays(recipe, start):
    """A limit on the size of files stands for a full disk: the system refuses to write more."""
    made = recipe(**{"checkpoint.every": 1})

    def run():
        write = Checkpoints._write

        def limited(self, path, state, *rest):
            if state.step == 3:
                limit = 20_000, resource.RLIM_INFINITY
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            write(self, path, state, *rest)

        Checkpoints._write = limited
        return train(made, io.StringIO()).step

    how, message = start(run).end()
    assert how == "raised"
    assert message == (
        "TrainingError: the checkpoint of step 3 could not be written: "
        + message.partition("written: ")[2]
    )
    assert "the checkpoint of step 2 stays usable, make room and start again" in message
    folder = made.output_dir / "checkpoints"
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["step-00000001", "step-00000002"]
    out = io.StringIO()
    assert train(made, out).step == 4
    assert "going on from step 2" in out.getvalue()
    other = replace(made, output=f"{made.output}-other")
    train(other, io.StringIO())
    last = "checkpoints/step-00000004/trained.safetensors"
    assert (made.output_dir / last).read_bytes() == (other.output_dir / last).read_bytes()


def test_what_may_still_be_being_written_is_left(tmp_path):
    old, new = tmp_path / ".writing-old", tmp_path / ".writing-new"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    atomic.remove_half_written(tmp_path, older_than=60.0)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_file_is_replaced_whole_or_not(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_file(path, b"first")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, "fsync", fail)
    with pytest.raises(TrainingError, match=r"figures could not be written: No space left"):  # noqa: SIM117
        with atomic.writing("figures"):
            atomic.write_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def bad(position: int) -> Rejected:
    return Rejected(f"rows#{position}", position, f"{position}.png is no picture")


def test_bad_samples_are_listed_and_stop_a_run(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, BadSampleSettings(max_share=0.1, min_count=3))
    quarantine.add(10, [bad(5), bad(2)])
    quarantine.add(10, [bad(12)])
    assert [line["position"] for line in read_lines(path)] == [2, 5, 12]
    assert read_lines(path)[0] == {"position": 2, "key": "rows#2", "reason": "2.png is no picture"}
    with pytest.raises(TrainingError) as told:
        quarantine.add(10, [bad(20)])
    assert "4 of 30 samples are bad, more than bad_samples allows" in str(told.value)
    assert str(path) in str(told.value)
    assert "rows#20: 20.png is no picture" in str(told.value)


def test_a_share_of_many_may_be_bad(tmp_path):
    settings = BadSampleSettings(max_share=0.1, min_count=0)
    quarantine = Quarantine(tmp_path / "q.jsonl", settings)
    quarantine.add(1000, [bad(number) for number in range(100)])
    with pytest.raises(TrainingError, match="101 of 1,000 samples"):
        quarantine.add(0, [bad(100)])


def test_bad_samples_after_the_checkpoint_are_forgotten(tmp_path):
    path = tmp_path / "q.jsonl"
    Quarantine(path, BadSampleSettings()).add(20, [bad(3), bad(17)])
    with path.open("ab") as file:
        file.write(b'{"position": 19, "key": "ro')  # cut off by a kill
    again = Quarantine(path, BadSampleSettings(), seen=10)
    assert (again.count, again.seen) == (1, 10)
    assert [line["position"] for line in read_lines(path)] == [3]


def test_too_many_bad_samples_stop_a_real_run(recipe, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(pictures.read_text())  # without the pictures beside it
    made = recipe(data=[{"path": str(rows)}], **{"bad_samples.min_count": 6})
    with pytest.raises(TrainingError, match=r"8 of 8 samples are bad.*no such file"):
        train(made, io.StringIO())
    assert len(read_lines(made.output_dir / "quarantine.jsonl")) == 8


def test_figures_after_the_checkpoint_are_forgotten(tmp_path):
    for start in (0, 2):
        metrics = Metrics(tmp_path, start, tensorboard=False)
        for step in range(start + 1, 5):
            metrics.add(step, {"loss": step + start / 10})
        metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": s, "loss": x} for s, x in ((1, 1), (2, 2), (3, 3.2), (4, 4.2))]


def test_tensorboard_gets_the_figures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = Metrics(tmp_path, 0, tensorboard=True)
    assert metrics.warning == ""
    metrics.add(1, {"loss": 2.5, "validation": {"accuracy": 0.25}})
    metrics.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [one.value for one in found.Scalars("loss")] == [2.5]
    assert [one.value for one in found.Scalars("validation/accuracy")] == [0.25]


def test_without_tensorboard_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    metrics = Metrics(tmp_path, 0, tensorboard=True)
    assert "TensorBoard is not installed" in metrics.warning
    metrics.add(1, {"loss": 2.5})
    assert read_lines(tmp_path / "metrics.jsonl")[0]["loss"] == 2.5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_where_someone_watches(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = TrainingProgress(10, 0, batch=4, every=5, out=out)
    for step in range(1, 4):
        progress.update(step, 2.5, 1e-4)
    progress.tell("validation [at] step 3")
    progress.close()
    text = out.getvalue()
    assert "step 3/10" in text
    assert "loss 2.5000  rate 1.00e-04" in text
    assert "left" in text
    assert "validation [at] step 3" in text


def test_plain_lines_elsewhere():
    out = io.StringIO()
    progress = TrainingProgress(7, 0, batch=4, every=3, out=out)
    time.sleep(1.0)  # as readers take a while to start; later steps do not
    speeds = [progress.update(step, 1.0, 1e-4) for step in range(1, 8)]
    assert speeds[0] < 5 < speeds[1]
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["3/7", "6/7", "7/7"]
    assert all(speed > 0 for speed in speeds)
    silent = TrainingProgress(7, 0, batch=4, every=1, out=None)
    silent.update(1, 1.0, 1e-4)
    silent.tell("nobody hears this")
    silent.close()


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (7503, "2 h 05 min")]
)
def test_seconds(seconds, text):
    assert spell_seconds(seconds) == text

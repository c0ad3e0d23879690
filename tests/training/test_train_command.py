"""The command train, as a user meets it."""

import json

import pytest

from video_llama.errors import DataError
from video_llama.training.presets import recipe_text
from video_llama.training.trainer import Outcome


@pytest.fixture
def file(recipe, tmp_path):
    """A recipe as a file."""
    path = tmp_path / "tiny.json"
    path.write_text(recipe_text(recipe()), encoding="utf-8")
    return path


def test_a_recipe_is_shown_and_can_be_given_again(run, tmp_path):
    status, out, _ = run("train", "vision_stage1", "seed=3", "data.0.path=a.json", "--show")
    path = tmp_path / "shown.json"
    path.write_text(out)
    assert status == 0
    assert json.loads(out)["batch"] == 32
    assert run("train", path, "--show")[1] == out


def test_train_and_go_on(run, file, recipe):
    status, out, err = run("train", file, "schedule.steps_per_epoch=3")
    assert status == 0
    assert out == f"{recipe().output_dir}/checkpoints/step-00000003: 3 steps done\n"
    assert "step 3/3  loss" in err
    status, out, err = run("train", file, "schedule.steps_per_epoch=3", "--json")
    outcome = json.loads(out)
    assert (status, outcome["step"], outcome["stopped_by"]) == (0, 3, None)
    assert "going on from step 3" in err


def test_a_rehearsal_tells_and_keeps_nothing(run, file, recipe):
    status, out, _ = run("train", file, "--dry-run", "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["steps"], told["batch"], told["rows"]) == (4, 4, 12)
    assert 0 < told["trained"] < told["parameters"]
    assert told["loss"] > 0
    assert told["tokens"] > 1
    assert told["seconds"] == pytest.approx(4 * 4 / told["samples_per_second"])
    assert told["peak_bytes"] > 1e6
    assert told["rejected"] == []
    status, out, _ = run("train", file, "--dry-run", "cache=somewhere")
    assert status == 0
    assert "4 steps of 4 samples, from 12 rows" in out
    assert "and less from the cache" in out
    assert not recipe().output_dir.exists()


def test_a_rehearsal_names_bad_samples(run, file, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    lines = pictures.read_text().splitlines()
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes((pictures.parent / f"{number}.png").read_bytes())
    rows.write_text("\n".join(lines) + "\n")
    status, out, _ = run("train", file, f"data.0.path={rows}", "--dry-run")
    assert status == 0
    assert out.count("bad sample rows.jsonl#") == 3  # of twelve
    rows.write_text("\n".join(lines[9:]) + "\n")
    status, _, err = run("train", file, f"data.0.path={rows}", "--dry-run")
    assert status == 1
    assert "every one of the first samples is bad: rows.jsonl#" in err


def test_errors_are_a_line_and_status_one(run, file):
    for settings, said in (
        (["batch=none"], "error: batch is a whole number, not 'none'"),
        (["model.path=./gone"], "error: no such directory: ./gone"),
        (["data=[]"], "error: data is empty"),
    ):
        status, out, err = run("train", file, *settings)
        assert (status, out) == (1, "")
        assert err.startswith(said)
        assert err.count("\n") == 1
    status, out, _ = run("train", file, "data=[]", "--json")
    assert (status, json.loads(out)["error"]["type"]) == (1, "OptionError")


def test_one_of_several_processes_that_fails_prints_one_object(run, file, monkeypatch):
    """They end at once, without waiting for each other; the first one prints."""
    monkeypatch.setattr("os._exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    from video_llama.training import trainer

    def fail(*_):
        raise DataError("there is no file of data a.csv")

    monkeypatch.setattr(trainer, "train", fail)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        status, out, err = run("train", file, "--json")
        assert (status, err) == (1, f"error: process {rank}: there is no file of data a.csv\n")
        found = json.loads(out)["error"] if out else None
        said = {"type": "DataError", "message": "there is no file of data a.csv"}
        assert found == (said if rank == "0" else None)
        out = run("train", file, "batch=none", "--json")[1]
        assert ("OptionError" in out) == (rank == "0")


def test_a_stopped_run_says_what_to_do(run, file, monkeypatch, tmp_path):
    from video_llama.training import trainer

    outcome = Outcome(3, 6, 1.0, None, tmp_path / "step-3", None, "SIGTERM")
    monkeypatch.setattr(trainer, "train", lambda *_: outcome)
    status, out, err = run("train", file)
    assert (status, out) == (1, "")
    assert err == (
        f"stopped by SIGTERM after step 3 of 6; {tmp_path / 'step-3'} is written, and the same "
        "command goes on from there\n"
    )


def test_bad_samples_are_told_at_the_end(run, file, pictures, tmp_path):
    lines = pictures.read_text().splitlines()
    bad = json.loads(lines[0])
    text = json.dumps(bad).replace(".png", ".gone")
    rows = pictures.with_name("with_a_bad_row.jsonl")
    rows.write_text("\n".join([*lines[1:], text]) + "\n")
    status, out, err = run("train", file, f"data.0.path={rows}", "schedule.steps_per_epoch=3")
    assert status == 0
    assert "3 steps done" in out
    assert "warning: 1 sample could not be used; quarantine.jsonl says which and why" in err

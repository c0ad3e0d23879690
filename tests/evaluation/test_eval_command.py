"""`video-llama eval` as a user meets it."""

import json
from functools import partial
from pathlib import Path

import pytest

from video_llama.cli_eval import results_name


@pytest.fixture(name="run")
def _run_fixture(run):
    """Run `eval` in this process; (status, stdout, stderr)."""
    return lambda *arguments: run("eval", *arguments)


@pytest.fixture
def data(tmp_path, films):
    """POPE and MSRVTT-QA side by side, each in a folder of its name."""
    for name in ("pope", "msrvtt-qa"):
        (tmp_path / "data" / name).mkdir(parents=True)
    picture = (films / "picture.png").read_bytes()
    (tmp_path / "data/pope/picture.png").write_bytes(picture)
    row = {"image": "picture.png", "text": "Is there a dog?", "label": "no"}
    lines = "".join(json.dumps({**row, "question_id": number}) + "\n" for number in range(3))
    (tmp_path / "data/pope/coco_pope_random.json").write_text(lines, encoding="utf-8")
    (tmp_path / "data/msrvtt-qa/video1.mp4").write_bytes((films / "one.mkv").read_bytes())
    rows = [
        {"id": number, "video_id": number, "question": "what is it?", "answer": "dog"}
        for number in (1, 2)
    ]
    text = json.dumps(rows)
    (tmp_path / "data/msrvtt-qa/test_qa.json").write_text(text, encoding="utf-8")
    return tmp_path / "data"


def test_list(run):
    status, out, _ = run("--list")
    assert status == 0
    assert "music-avqa" in out
    tasks = json.loads(run("--list", "--json")[1])["tasks"]
    assert {"mvbench", "pope", "avsd", "world"} < {task["name"] for task in tasks}
    assert set(tasks[0]) == {"name", "about", "files"}


def test_several_benchmarks(run, data, tiny_model_dir, tmp_path):
    arguments = ("pope", "msrvtt-qa", "-m", tiny_model_dir, "--data", data, "--max-new-tokens", 8)
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert "pope: 3 questions, 3 answered, 0 failed, 0 absent" in out
    assert "msrvtt-qa: 2 questions, 1 answered, 0 failed, 1 absent" in out
    assert "yes_share" in out
    folder = tmp_path / "results" / tiny_model_dir.name
    report = json.loads((folder / "pope.json").read_text(encoding="utf-8"))
    assert len(report["answers"]) == 3
    status, out, _ = run(*arguments, "--json")
    first, second = json.loads(out)["results"]
    assert (first["task"], second["task"]) == ("pope", "msrvtt-qa")
    assert first["metrics"] == report["metrics"]
    assert "answers" not in first
    assert first["file"].endswith("pope.json")


def test_the_world_makes_its_own_data(run, tiny_model_dir, tmp_path, monkeypatch):
    from video_llama.evaluation.tasks import world

    monkeypatch.setattr(world, "SCENES", 2)
    status, out, err = run("world", "-m", tiny_model_dir, "--out", "o", "--max-new-tokens", 4)
    assert status == 0, err
    assert "by_kind" not in out
    assert "chinese" in out
    assert (tmp_path / "o" / "world" / "world.jsonl").is_file()
    assert (tmp_path / "o" / "world.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "--list shows them"),
        (["nothing"], 1, "no benchmark 'nothing'"),
        (["pope"], 1, "pope needs --data, a folder with coco_pope_random.json"),
        (["pope", "--data", "nowhere"], 1, "nowhere is no folder"),
        (["pope", "--data", "data/msrvtt-qa"], 1, "has no *pope_*.json*"),
        (["pope", "--data", "data", "--batch", "0"], 2, "--batch"),
        (["pope", "--data", "data", "--judge", "http://x/v1"], 1, "give --judge-model"),
        (["pope", "--data", "data", "--judge-model", "m"], 2, "--judge"),
        (["pope", "--data", "data", "-m", "./missing"], 1, "missing"),
    ],
)
def test_errors_are_a_line(run, data, arguments, status, message):
    found, _, err = run(*arguments)
    assert found == status
    assert message in err
    assert status == 2 or len(err.splitlines()) == 1


@pytest.fixture
def judged(run, data, tiny_model_dir, endpoint):
    """Run `eval msrvtt-qa` with the judge."""
    reading = ("-m", tiny_model_dir, "--data", data, "--max-new-tokens", 4, "--out", "o")
    return partial(run, "msrvtt-qa", *reading, "--judge", endpoint.url, "--judge-model", "m")


def test_a_judge_that_is_not_there(judged, endpoint):
    endpoint.replies = [403]
    status, out, err = judged()
    assert status == 1
    assert "refuses with 403" in err
    assert "1 answered" in out
    endpoint.replies = ['{"correct": "yes", "score": 4}']
    status, out, _ = judged()
    assert status == 0
    assert "judge m: accuracy 1.0000, score 4.00 of 5" in out


def test_a_judge_that_cannot_be_read(judged, endpoint):
    endpoint.replies = ["I cannot say."]
    status, out, err = judged()
    assert status == 1
    assert "none of the 1 replies of the judge m can be read" in err
    assert "judge m: accuracy -, score - of 5, 1 unreadable" in out


def test_a_judge_is_not_asked_where_it_could_not_help(run, data, tiny_model_dir, endpoint):
    reading = ("-m", tiny_model_dir, "--data", data, "--max-new-tokens", 4, "--out", "o")
    status, _, err = run("pope", *reading, "--judge", endpoint.url, "--judge-model", "m")
    assert status == 0
    assert "pope has no open answers; the judge is not asked about it" in err


@pytest.fixture
def pope(run, data, tiny_model_dir):
    """Run `eval pope` after damaging its only picture, or adding questions about another one."""

    def pope(*more):
        (data / "pope/picture.png").write_bytes(b"no picture")
        path = data / "pope/coco_pope_random.json"
        with path.open("a", encoding="utf-8") as file:
            for row in more:
                file.write(json.dumps({"text": "Is it?", "label": "no", **row}) + "\n")
        return run("pope", "-m", tiny_model_dir, "--data", data, "--max-new-tokens", 4)

    return pope


def test_questions_that_failed_are_told_with_the_reason(pope, data, films):
    (data / "pope/other.png").write_bytes((films / "picture.png").read_bytes())
    status, out, err = pope({"question_id": 9, "image": "other.png"})
    assert status == 0
    assert "1 answered, 3 failed" in out
    assert err.startswith("warning: pope: 3 of 4 questions failed; the first: picture.png ")


def test_nothing_answered_is_a_failure(pope):
    status, out, err = pope()
    assert status == 1
    assert "0 answered, 3 failed" in out
    assert err.startswith("error: pope: 3 of 3 questions failed; the first: picture.png ")


def test_results_of_a_trained_model_have_the_name_of_its_run(tmp_path):
    assert results_name(tmp_path / "vision1" / "model") == "vision1"
    assert results_name(tmp_path / "mine") == "mine"
    assert results_name(Path("/model")) == "model"

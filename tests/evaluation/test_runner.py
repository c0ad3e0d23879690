"""A whole benchmark: goes on where it stopped, counts what cannot be asked, loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from video_llama.checkpoints.part import PART_FILE, TRAINED_FILE, Part, fingerprint
from video_llama.errors import DataError, OptionError
from video_llama.evaluation import asking, runner
from video_llama.evaluation.endpoint import JudgeOptions
from video_llama.evaluation.metrics import measure_open
from video_llama.evaluation.results import describe_model
from video_llama.evaluation.runner import RunOptions, load_questions, run_task, sample
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task

NAMES = ("one.mkv", "two.mkv", "three.mkv", "sound.wav", "picture.png")
TEXTS = ("What?", "And what do you hear?", "Who is it?")


def questions(films, names=NAMES):
    return tuple(
        Question(f"{name}/{number}", Medium(films / name), text, ("dog",), kind=text.split()[0])
        for number, text in enumerate(TEXTS)
        for name in names
    )


@pytest.fixture
def task(films, tmp_path):
    (tmp_path / "qa.json").write_text("[]", encoding="utf-8")

    def load(data):
        return QuestionSet(questions(films), (tmp_path / "qa.json",), notes=("a note",))

    return Task("made-up", "about", "files", load, measure_open, 6, open_answers=True)


@pytest.fixture
def run(task, films, assistant, facts, tmp_path):
    def run(changed=task, out="out", judge=None, progress=None, **options):
        loaded = load_questions(changed, films, tmp_path, options.get("limit"))
        settings = RunOptions(**options)
        where = tmp_path / out
        return run_task(
            changed, loaded, assistant, facts, where, settings, judge=judge, progress=progress
        )

    return run


def predictions(result):
    return {answer["id"]: answer["prediction"] for answer in result.report["answers"]}


def test_the_batch_size_changes_nothing(run, assistant, films):
    large = predictions(run(out="large", batch_size=7))
    assert predictions(run(out="single", batch_size=1)) == large
    for question in questions(films)[::4]:
        alone = assistant.ask(question.medium.path, question.text, max_new_tokens=6)
        assert large[question.id] == alone


def test_the_report_has_everything(run, tmp_path):
    result = run(num_frames=2, instruction="In a word.")
    report = json.loads((tmp_path / "out" / "made-up.json").read_text(encoding="utf-8"))
    assert report == result.report
    assert (report["n"], report["answered"], report["failed"], report["absent"]) == (15, 15, 0, 0)
    assert set(report["metrics"]) == {"exact", "contains", "by_kind"}
    assert report["chance"]["exact"] == 1.0
    settings = report["settings"]
    assert len(settings["sha256"]) == 64
    assert settings["template"] == "plain"
    assert settings["num_frames"] == 2
    assert settings["instruction"] == "In a word."
    assert settings["generation"] == {"do_sample": False, "max_new_tokens": 6}
    assert set(settings["data"]) == {"qa.json"}
    assert {"torch", "transformers", "commit"} <= set(report["software"])
    assert report["notes"] == ["a note"]
    assert report["sound"] == {"used": 9, "absent": 6}
    answer = report["answers"][0]
    assert answer["media"] == "one.mkv"
    assert answer["reference"] == ["dog"]
    assert answer["right"] is False
    assert answer["seconds"] > 0
    assert [one["id"] for one in report["answers"]] == [one.id for one in questions(Path())]


def test_the_instruction_is_asked(run):
    assert predictions(run(out="a", instruction="Be brief.")) != predictions(run(out="b"))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_medium_is_read_and_encoded_once(run, monkeypatch, size):
    read, encoded = [], []
    real_read, real_encode = asking.read_medium, asking.encode
    monkeypatch.setattr(
        asking, "read_medium", lambda medium, *rest: read.append(medium) or real_read(medium, *rest)
    )
    monkeypatch.setattr(
        asking, "encode", lambda *given: encoded.append(given) or real_encode(*given)
    )
    run(batch_size=size)
    assert sorted(medium.path.name for medium in read) == sorted(NAMES)
    assert len(encoded) == len(NAMES)


def test_a_run_goes_on_where_it_stopped(run, task, monkeypatch):
    whole = run(out="whole").report
    real, asked = asking.answer_together, []

    def stops(prepared, *rest):
        if len(asked) >= 8:
            raise KeyboardInterrupt
        asked.extend(one.question.id for one in prepared)
        return real(prepared, *rest)

    monkeypatch.setattr(asking, "answer_together", stops)
    with pytest.raises(KeyboardInterrupt):
        run(batch_size=4)

    def goes_on(prepared, *rest):
        asked.extend(one.question.id for one in prepared)
        return real(prepared, *rest)

    monkeypatch.setattr(asking, "answer_together", goes_on)
    report = run(batch_size=3).report
    assert sorted(asked) == sorted(one["id"] for one in whole["answers"]), "each asked once"
    assert report["metrics"] == whole["metrics"]
    assert [one["prediction"] for one in report["answers"]] == [
        one["prediction"] for one in whole["answers"]
    ]


def test_a_finished_run_asks_nothing(run, monkeypatch):
    first = run()
    monkeypatch.setattr(asking, "encode", None)
    assert run().report == first.report


def test_other_settings_are_refused(run, task):
    run(limit=2)
    with pytest.raises(OptionError, match=r"num_frames 4, and this run has 2.*another --out"):
        run(num_frames=2)
    with pytest.raises(OptionError, match="sound True, and this run has False"):
        run(with_sound=False)
    with pytest.raises(OptionError, match="generation: max_new_tokens 6, and this run has 5"):
        run(max_new_tokens=5)
    run(limit=2, batch_size=1)  # does not change the answers


def test_questions_in_other_words_are_asked_anew(run, task, films):
    """As those of another version of this software may be."""
    run(limit=4)
    said = tuple(replace(one, text="Really?") for one in questions(films))
    changed = replace(task, load=lambda data: replace(task.load(data), questions=said))
    result = run(changed, limit=9)
    assert {answer["question"] for answer in result.report["answers"]} == {"Really?"}
    assert predictions(result) == predictions(run(changed, out="alone", limit=9))


def test_results_name_the_software_that_gave_the_answers(run, monkeypatch):
    mine = run(limit=4).report["software"]
    other = {**mine, "torch": "1.0"}
    monkeypatch.setattr(runner, "describe_software", lambda: other)
    assert run(limit=4).report["software"] == mine  # all were there
    report = run(limit=9).report
    assert report["software"] == other
    note = f"some answers were given on cpu with video_llama {mine['video_llama']}, commit "
    assert report["notes"][1].startswith(note)
    assert len(report["notes"]) == 2


def test_other_data_are_refused(run, tmp_path):
    run(limit=1)
    (tmp_path / "qa.json").write_text("[0]", encoding="utf-8")
    with pytest.raises(OptionError, match=r"data: qa\.json \w{12}\.\.\."):
        run(limit=1)


def test_bad_media_are_counted_apart(run, task, films):
    names = ("one.mkv", "broken.mp4", "nowhere.mp4")
    bad = replace(
        task, load=lambda data: QuestionSet(questions(films, names), (films / "one.mkv",))
    )
    report = run(bad).report
    assert (report["n"], report["answered"], report["failed"], report["absent"]) == (9, 3, 3, 3)
    by_media = {answer["media"]: answer for answer in report["answers"]}
    assert "can be read" in by_media["broken.mp4"]["failed"]
    assert by_media["nowhere.mp4"]["absent"] is True
    assert by_media["nowhere.mp4"]["prediction"] is None
    assert "right" not in by_media["broken.mp4"]
    assert report["metrics"]["by_kind"]["What?"]["n"] == 1


def test_absent_media_are_tried_again_when_they_are_there(run, task, films, tmp_path):
    late = tmp_path / "late.mkv"
    asked = (Question("q", Medium(late), "What?", ("x",)), questions(films)[0])
    changed = replace(task, load=lambda data: QuestionSet(asked, (films / "one.mkv",)))
    assert run(changed).report["absent"] == 1
    late.write_bytes((films / "two.mkv").read_bytes())
    report = run(changed).report
    assert (report["absent"], report["answered"]) == (0, 2)


def test_a_prompt_that_does_not_fit_is_a_failure(run, task, films):
    long = (Question("q", Medium(films / "one.mkv"), "why " * 400, ("x",)), questions(films)[0])
    report = run(replace(task, load=lambda data: QuestionSet(long, (films / "one.mkv",)))).report
    assert (report["failed"], report["answered"]) == (1, 1)
    assert "shorten" in report["answers"][0]["failed"]


def test_nothing_of_the_media_there_is_an_error_at_once(task, films, tmp_path):
    names = ("nowhere.mp4",)
    none = replace(task, load=lambda data: QuestionSet(questions(films, names), (tmp_path,)))
    with pytest.raises(DataError, match=r"none of the media is below .*nowhere\.mp4"):
        load_questions(none, films, tmp_path, None)
    with pytest.raises(DataError, match="none of the media of the 1 questions that were drawn"):
        load_questions(none, films, tmp_path, 1)
    long = replace(task, load=lambda data: QuestionSet(questions(films, ("x" * 300,)), (tmp_path,)))
    with pytest.raises(DataError, match="none of the media is below"):
        load_questions(long, films, tmp_path, None)
    empty = replace(task, load=lambda data: QuestionSet((), (films / "one.mkv",)))
    with pytest.raises(DataError, match="no questions"):
        load_questions(empty, films, tmp_path, None)
    twice = replace(
        task, load=lambda data: QuestionSet(questions(films)[:1] * 2, (films / "one.mkv",))
    )
    with pytest.raises(DataError, match=r"'one\.mkv/0' is there 2 times"):
        load_questions(twice, films, tmp_path, None)
    with pytest.raises(OptionError, match="made-up needs --data"):
        load_questions(task, None, tmp_path, None)


def test_a_sample_is_the_same_each_time_and_grows(films):
    asked = questions(films)
    few, more = sample(asked, 4), sample(asked, 9)
    assert len(few) == 4
    assert set(few) < set(more) < set(asked)
    assert [one for one in asked if one in more] == list(more), "in their order"
    assert sample(asked, None) == asked


def test_a_larger_sample_keeps_the_answers(run, monkeypatch):
    run(limit=4)
    asked = []
    real = asking.answer_together
    monkeypatch.setattr(
        asking,
        "answer_together",
        lambda prepared, *rest: asked.extend(prepared) or real(prepared, *rest),
    )
    assert run(limit=9).report["answered"] == 9
    assert len(asked) == 5


def test_progress(run):
    seen = []
    run(batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 15), (4, 15), (8, 15), (12, 15), (15, 15)]


def test_options_below_one():
    with pytest.raises(OptionError, match="batch_size must be at least 1, not 0"):
        RunOptions(batch_size=0)


def test_a_judge_is_heard_besides(run, endpoint):
    endpoint.replies = ['{"correct": "no", "score": 1}', '{"correct": "yes", "score": 4}']
    result = run(judge=JudgeOptions(endpoint.url, "m", workers=1), limit=3)
    assert result.judge_fault == ""
    judged = result.report["judge"]
    assert (judged["accuracy"], judged["score"], judged["n"]) == (0.6667, 3.0, 3)
    assert judged["model"] == "m"
    assert [one["judge"]["correct"] for one in result.report["answers"]].count(True) == 2
    assert "exact" in result.report["metrics"]


def test_without_the_judge_the_rest_stands(run, endpoint, tmp_path):
    endpoint.replies = [401]
    result = run(judge=JudgeOptions(endpoint.url, "m"), limit=3)
    assert "refuses with 401" in result.judge_fault
    report = json.loads((tmp_path / "out" / "made-up.json").read_text(encoding="utf-8"))
    assert report["metrics"]["exact"] is not None
    assert "refuses" in report["judge"]["error"]
    endpoint.replies = ['{"correct": "yes", "score": 5}']
    assert run(judge=JudgeOptions(endpoint.url, "m"), limit=3).report["judge"]["accuracy"] == 1.0


def test_no_judge_where_answers_are_not_open(run, task, endpoint):
    closed = replace(task, open_answers=False)
    report = run(closed, judge=JudgeOptions(endpoint.url, "m"), limit=1).report
    assert "judge" not in report
    assert endpoint.requests == []


KILLED = """
import sys, time
from video_llama.evaluation import asking, runner
from video_llama.cli import main
real = asking.answer_together
def slow(prepared, *rest):
    time.sleep(0.2)
    return real(prepared, *rest)
asking.answer_together = slow
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_at_any_moment_and_begun_again(tmp_path, films, tiny_model_dir):
    """The whole command, ended by SIGKILL in the middle, then run again."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"question_id": number, "image": "picture.png", "text": f"Is it {number}?", "label": "yes"}
        for number in range(24)
    ]
    (data / "coco_pope_random.json").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (data / "picture.png").write_bytes((films / "picture.png").read_bytes())
    out = tmp_path / "out"
    command = ["eval", "pope", "-m", tiny_model_dir, "--data", data, "--batch", "2", "--out", out]
    arguments = [sys.executable, "-c", KILLED, *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, env=environment)
    answers = out / "pope.answers.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if answers.is_file() and answers.read_bytes().count(b"\n") >= 5:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = answers.read_bytes()
    assert 5 <= before.count(b"\n") < 25
    assert not (out / "pope.json").exists()
    from video_llama.cli import main

    with pytest.raises(SystemExit) as exit_:
        main([*map(str, command)])
    assert not exit_.value.code
    assert answers.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    report = json.loads((out / "pope.json").read_text(encoding="utf-8"))
    assert (report["n"], report["answered"]) == (24, 24)


def test_the_checksum_of_a_part_is_of_its_model_too(tiny_model_dir, tmp_path):
    base, part = tmp_path / "base", tmp_path / "part"
    shutil.copytree(tiny_model_dir, base)
    shutil.copytree(base, part, ignore=shutil.ignore_patterns("*.safetensors"))
    sums = set()
    for value in (1.0, 2.0):
        tensors = {"vision_branch.projector.bias": torch.full((2,), value)}
        save_file(tensors, part / TRAINED_FILE)
        (part / PART_FILE).write_text(Part("../base", fingerprint(base)).to_json())
        sums.add(describe_model(part)["sha256"])
    assert len(sums) == 2
    assert describe_model(base)["sha256"] not in sums

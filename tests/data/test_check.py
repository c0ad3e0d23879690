"""`data check` as a library and as a command."""

import io
import itertools
import json
import tarfile

import pytest

from video_llama.data.check import check
from video_llama.data.formats import DatasetSpec


@pytest.fixture
def bad_llava(tmp_path, save_picture, save_json):
    """Eight rows, two of them good."""
    save_picture(tmp_path / "a.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")

    def row(image, answer="A dog.", question="<image>\nWhat?"):
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return {"image": image, "conversations": turns}

    rows = [
        row("a.png"),
        row("nowhere.png"),
        row("empty.png"),
        row("a.png", answer=""),
        row("a.png", question="What?"),
        row("a.png"),
        row("text.png"),
        row("a.png", answer="Another."),
    ]
    return save_json(tmp_path / "llava.json", rows)


def test_every_fault_is_found(bad_llava):
    report = check(DatasetSpec(str(bad_llava)))
    assert not report.passed
    assert (report.rows, report.checked, report.bad) == (8, 8, 5)
    assert [(fault.key.split("#")[1], fault.kind) for fault in report.faults] == [
        ("1", "missing"),
        ("2", "missing"),
        ("3", "malformed"),
        ("4", "malformed"),
        ("5", "repeated"),
    ]
    reasons = [fault.reason for fault in report.faults]
    assert "nowhere.png" in reasons[0]
    assert "empty.png is empty" in reasons[1]
    assert reasons[2] == "the answer is empty"
    assert "0 <image> and the row names 1" in reasons[3]
    assert reasons[4] == "the same stands in row 0 already"
    assert report.media == {"image": 3}
    assert report.answers == 3


def test_decoding_finds_more(bad_llava):
    report = check(DatasetSpec(str(bad_llava)), decode=True)
    assert report.bad == 6
    damaged = [fault for fault in report.faults if fault.kind == "damaged"]
    assert [fault.key for fault in damaged] == ["llava.json#6"]
    assert "text.png" in damaged[0].reason


def test_what_is_looked_at_can_be_limited(bad_llava):
    steps = []
    spec = DatasetSpec(str(bad_llava))
    report = check(spec, limit=1, progress=lambda *step: steps.append(step))
    assert report.passed
    assert (report.rows, report.checked) == (8, 1)
    assert steps == [(1, 1)]
    assert check(spec, limit=100).checked == 8


def test_media_of_the_wrong_kind(tmp_path, save_picture, save_sound, save_lines, clip_path):
    save_picture(tmp_path / "a.png")
    save_sound(tmp_path / "a.wav")
    (tmp_path / "a.mkv").write_bytes(clip_path.read_bytes())
    good = [{"image": "a.png"}, {"audio": "a.wav"}, {"video": "a.mkv"}, {"audio": "a.mkv"}]
    bad = [{"image": "a.wav"}, {"audio": "a.png"}]
    rows = [{**row, "caption": "x"} for row in good + bad]
    report = check(DatasetSpec(str(save_lines(tmp_path / "a.jsonl", rows))), decode=True)
    assert [fault.key for fault in report.faults] == ["a.jsonl#4", "a.jsonl#5"]
    assert report.media == {"image": 1, "audio": 2, "video": 1}


def test_names_that_stand_twice(tmp_path):
    (tmp_path / "7.mp4").write_bytes(b"x")
    (tmp_path / "8.mp4").write_bytes(b"x")
    (tmp_path / "a.csv").write_text("videoid,name\n7,a dog\n8,a dog\n7,a cat\n")
    report = check(DatasetSpec(str(tmp_path / "a.csv")))
    assert [(fault.key, fault.reason) for fault in report.faults] == [
        ("a.csv#2", "'7' stands in row 0 already")
    ]


def test_rows_that_training_refuses(tmp_path, save_picture, save_lines):
    save_picture(tmp_path / "a.png")
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    rows = [
        talk,
        {"image": "a.png", "caption": "..."},
        {"image": "a.png", "captions": ["a dog", "(!)"]},
        {"image": "a.png", "caption": "...", "instruction": "What stands there?"},
    ]
    report = check(DatasetSpec(str(save_lines(tmp_path / "a.jsonl", rows))))
    assert [(fault.key, fault.kind) for fault in report.faults] == [
        (f"a.jsonl#{number}", "malformed") for number in range(3)
    ]
    reasons = [fault.reason for fault in report.faults]
    assert reasons[0].startswith("there is no medium in it")
    assert reasons[1] == "nothing is left of the caption '...' once it is cleaned"
    assert "'(!)'" in reasons[2]


def test_half_a_character_is_a_fault(tmp_path, save_picture, save_lines):
    save_picture(tmp_path / "a.png")
    path = tmp_path / "a.jsonl"
    path.write_text('{"image": "a.png", "caption": "a dog \\ud83d"}\n')
    (fault,) = check(DatasetSpec(str(path))).faults
    assert (fault.kind, fault.key) == ("malformed", "a.jsonl#0")
    assert "half a character" in fault.reason


def test_a_name_stands_twice_within_one_shard_only(tmp_path):
    def write(name, keys):
        with tarfile.open(tmp_path / name, "w") as tar:
            for key, suffix in itertools.product(keys, ("jpg", "txt")):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = 5
                tar.addfile(member, io.BytesIO(b"a dog"))

    write("a.tar", ["000000000", "000000001"])
    write("b.tar", ["000000000"])
    assert check(DatasetSpec(str(tmp_path))).passed
    write("b.tar", ["000000000", "000000001", "000000000"])
    (fault,) = check(DatasetSpec(str(tmp_path))).faults
    assert (fault.key, fault.kind) == (f"{tmp_path.name}#4", "repeated")
    assert "b.tar/000000000' stands in row 2 already" in fault.reason


def test_all_faults_are_counted_and_the_first_are_kept(tmp_path, save_lines, monkeypatch):
    monkeypatch.setattr("video_llama.data.check.MAX_FAULTS", 3)
    rows = [{"image": f"{number}.png", "caption": "x"} for number in range(10)]
    report = check(DatasetSpec(str(save_lines(tmp_path / "a.jsonl", rows))))
    assert (report.bad, len(report.faults), report.kinds) == (10, 3, {"missing": 10})


# The command


def test_check_command(run, bad_llava):
    status, out, err = run("data", "check", bad_llava)
    assert status == 1
    assert err == ""
    assert out.startswith("llava.json: 8 rows\n  3 good, 5 bad\n")
    assert "FAIL llava.json#3: the answer is empty (malformed)" in out
    assert out.endswith("something is wrong\n")
    status, out, _ = run("data", "check", bad_llava, "--limit", 1, "--decode")
    assert status == 0
    assert "the first 1 looked at" in out
    assert out.endswith("nothing wrong\n")


def test_check_command_as_json(run, bad_llava):
    status, out, _ = run("data", "check", bad_llava, "--json", "--media", bad_llava.parent)
    assert status == 1
    report = json.loads(out)
    assert set(report) == {
        "passed", "name", "rows", "checked", "bad", "kinds", "media", "answers", "faults"
    }  # fmt: skip
    assert report["kinds"] == {"missing": 2, "malformed": 2, "repeated": 1}
    assert report["faults"][0]["kind"] == "missing"


def test_many_faults_are_summed_up(run, tmp_path, save_lines):
    rows = [{"image": f"{number}.png", "caption": "x"} for number in range(30)]
    _, out, _ = run("data", "check", save_lines(tmp_path / "a.jsonl", rows))
    assert out.count("FAIL") == 20
    assert "30 faults in all: 30 missing" in out


def test_a_data_set_without_rows_does_not_pass(run, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n")
    status, out, _ = run("data", "check", path)
    assert status == 1
    assert "there are no rows; give another file" in out
    assert out.endswith("something is wrong\n")
    status, out, _ = run("data", "check", path, "--json")
    assert (status, json.loads(out)["passed"]) == (1, False)
    status, _, err = run("data", "pack", path, "out")
    assert status == 1
    assert "a.jsonl has no rows to pack" in err


def test_mistakes(run, tmp_path):
    assert run("data", "check", "nowhere.json")[0] == 1
    assert "there is no file of data" in run("data", "check", "nowhere.json")[2]
    status, out, err = run("data", "check", tmp_path, "--format", "coco", "--json")
    assert status == 1
    assert json.loads(out)["error"]["type"] == "OptionError"
    assert "'coco'" in err
    assert run("data", "check")[0] == 2
    assert run("data", "pack", "x.json")[0] == 2
    assert run("data", "check", "x.json", "--limit", 0)[0] == 2

"""Answers survive whatever ends a run."""

import errno
import json
import os
from pathlib import Path

import pytest

from video_llama.errors import DataError
from video_llama.evaluation.journal import Journal, write_json


def test_records_come_back(tmp_path):
    path = tmp_path / "new" / "x.jsonl"
    with Journal(path) as journal:
        journal.append([{"id": 1}, {"id": "狗"}])
    with Journal(path) as journal:
        assert journal.records == [{"id": 1}, {"id": "狗"}]


@pytest.mark.parametrize("torn", ['{"id": 2, "text', '{"id": 2}', "\x00\x00"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1}\n' + torn, encoding="utf-8")
    with Journal(path) as journal:
        assert journal.records == [{"id": 1}]
        journal.append([{"id": 3}])
    assert path.read_text(encoding="utf-8") == '{"id": 1}\n{"id": 3}\n'


def test_a_character_torn_in_the_middle_is_dropped(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": 1}\n' + '{"id": "狗'.encode()[:-1])
    with Journal(path) as journal:
        assert journal.records == [{"id": 1}]


def test_damage_before_the_end_is_told(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1}\nbroken\n{"id": 2}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2 of .*x\.jsonl is damaged"):
        Journal(path)
    assert "broken" in path.read_text(encoding="utf-8")


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "x.jsonl"
    with Journal(path) as journal, pytest.raises(OSError, match=r"space.*x\.jsonl"):
        journal.append([{"id": 1}])
    with pytest.raises(OSError, match=r"space.*x\.json"):
        write_json(tmp_path / "x.json", 1)


def test_appended_records_are_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Journal(tmp_path / "x.jsonl") as journal:
        journal.append([{"id": 1}, {"id": 2}])
        assert len(synced) == 1
        assert (tmp_path / "x.jsonl").read_text(encoding="utf-8").count("\n") == 2


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["x.json"]


FULL = Path("/dev/full")  # takes nothing, as a full disk does


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_closing_on_a_full_disk_names_the_file_too(tmp_path):
    path = tmp_path / "x.jsonl"
    journal = Journal(path)
    journal._file.close()
    journal._file = FULL.open("ab")
    with pytest.raises(OSError, match="space") as caught, journal:
        journal.append([{"id": 1}])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_a_whole_file_on_a_full_disk_is_named(tmp_path):
    path = tmp_path / "x.json"
    (tmp_path / ".x.json.partial").symlink_to(FULL)
    with pytest.raises(OSError, match="space") as caught:
        write_json(path, ["word"] * 10000)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []

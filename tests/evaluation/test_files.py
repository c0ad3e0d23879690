"""Annotation files that are not as they should be, and media wherever they lie."""

import pytest

from video_llama.errors import DataError
from video_llama.evaluation.files import (
    MediaFolder,
    csv_rows,
    find_file,
    find_files,
    json_rows,
    line_rows,
)


def test_files_are_found_in_the_usual_folders(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "qa.json").touch()
    assert find_file(tmp_path, "test.json", "qa.json").name == "qa.json"
    (tmp_path / "test.json").touch()
    assert find_file(tmp_path, "test.json", "qa.json").name == "test.json"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no a\.json or b\.json"):
        find_files(tmp_path, "a.json", "b.json")
    with pytest.raises(DataError, match="is no folder"):
        find_files(tmp_path / "nowhere", "a.json")
    for name in ("1.json", "2.json"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"several files .*1\.json, 2\.json"):
        find_file(tmp_path, "*.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}', "is no JSON"),
        ('{"a": 1}', "must hold a list"),
        ("[1]", r"x\.json#0: a row must be"),
        ('[{"a": 1}, {"a": "what \\ud83d is it?"}]', r"x\.json#1: .* is half a character"),
        ("[" * 100_000, "nested too deep"),
        ("[" + "1" * 5000 + "]", "is no JSON"),
    ],
)
def test_json_that_does_not_fit(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(json_rows(path))


def test_rows_have_keys(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"rows": [{"a": 1}, {"a": 2}]}', encoding="utf-8")
    assert list(json_rows(path, "rows")) == [("x.json#0", {"a": 1}), ("x.json#1", {"a": 2})]
    with pytest.raises(DataError, match="a list 'other'"):
        list(json_rows(path, "other"))
    path.write_text('{"a": 1}\n\n{"a": "\\u2028"}\n', encoding="utf-8")
    assert [row["a"] for _, row in line_rows(path)] == [1, "\u2028"]


def test_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('﻿file,text\na.wav,"two\nlines, quoted"\n', encoding="utf-8")
    assert [row["text"] for _, row in csv_rows(path, "file", "text")] == ["two\nlines, quoted"]
    with pytest.raises(DataError, match="no column 'answer'; it has file, text"):
        list(csv_rows(path, "answer"))
    path.write_text('file,text\na.wav,"never closed' + "\nb.wav,x" * 30_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.csv is no csv near line .* quote not closed"):
        list(csv_rows(path, "file", "text"))
    path.write_text("file,text\na.wav\n", encoding="utf-8")
    with pytest.raises(DataError, match="too short"):
        list(csv_rows(path, "file", "text"))


def test_media_are_found_anywhere_below(tmp_path):
    for name in ("a/x.mp4", "b/deep/y.webm", "b/y.jpg", "c/x.mp4", "v_1.2.mkv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    videos = MediaFolder(tmp_path, "video")
    assert videos.find("k", "x.mp4") == tmp_path / "a/x.mp4"
    assert videos.find("k", "x.mp4", under=("c",)) == tmp_path / "c/x.mp4"
    assert videos.find("k", "c/x.mp4") == tmp_path / "c/x.mp4"
    assert videos.find("k", "y.avi") == tmp_path / "b/deep/y.webm"
    assert videos.find("k", "y") == tmp_path / "b/deep/y.webm"
    assert videos.find("k", "v_1.2") == tmp_path / "v_1.2.mkv"
    assert MediaFolder(tmp_path, "image").find("k", "y") == tmp_path / "b/y.jpg"
    assert not videos.find("k", "nowhere.mp4").exists()


def test_links_are_followed_and_loops_end(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.mp4").touch()
    data = tmp_path / "data"
    data.mkdir()
    (data / "videos").symlink_to(tmp_path / "elsewhere")
    (data / "loop").symlink_to(data)
    assert MediaFolder(data, "video").find("k", "x.mp4") == data / "videos/x.mp4"


@pytest.mark.parametrize("name", ["../x.mp4", "/etc/passwd", "", None, "http://a/b.mp4"])
def test_names_do_not_lead_out(tmp_path, name):
    with pytest.raises(DataError, match="k: "):
        MediaFolder(tmp_path, "video").find("k", name)

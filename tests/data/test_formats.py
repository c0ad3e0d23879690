"""Published formats: what a row becomes, and what is said of rows that cannot be used."""

import csv
import json
import pickle

import pytest

from video_llama.data.formats import DatasetSpec, detect_format, open_dataset
from video_llama.data.sample import media_path
from video_llama.errors import DataError, OptionError
from video_llama.processing.conversation import parse_conversation


def open_file(path, format="auto", **fields):
    return open_dataset(DatasetSpec(str(path), format, **fields))


def fault(rows, number=0):
    with pytest.raises(DataError) as caught:
        rows[number]
    message = str(caught.value)
    assert message.startswith(f"{rows.name}#{number}: ")
    assert "\n" not in message
    return message


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


# WebVid


WEBVID = ["videoid", "contentUrl", "duration", "page_dir", "name"]


def test_webvid(tmp_path):
    (tmp_path / "videos").mkdir()
    rows = [
        ["12", "http://x", "10", "000001_000050", "A dog runs, and a cat"],
        ["13", "http://x", "10", "000001_000050", 'She says "go"\nand goes'],
        ["14", "http://x", "10", "000051_000100", "你好"],
    ]
    found = open_file(write_csv(tmp_path / "train.csv", WEBVID, rows))
    assert len(found) == 3
    first = found[0]
    assert first.key == "train.csv#0"
    assert first.caption
    assert first.identity == "12"
    assert first.media() == [("video", tmp_path / "videos/000001_000050/12.mp4")]
    assert [sample.answers for sample in map(found.__getitem__, range(3))] == [
        ("A dog runs, and a cat",),
        ('She says "go"\nand goes',),
        ("你好",),
    ]
    with pytest.raises(IndexError):
        found[3]


def test_webvid_with_other_names_and_without_pages(tmp_path):
    path = tmp_path / "small.csv"
    path.write_bytes("\ufeffCaption , Video_ID\r\na dog,7\r\n\r\na cat,8\r\n".encode())
    found = open_file(path)
    assert [found[number].media()[0][1] for number in (0, 1)] == [
        tmp_path / "7.mp4",
        tmp_path / "8.mp4",
    ]
    assert found[1].answers == ("a cat",)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["12", "", "", "p", ""], "the caption is empty"),
        (["", "", "", "p", "text"], "videoid is empty"),
        (["12", "", "", "", "text"], "page_dir is empty"),
        (["12", "p"], "the row has 2 cells, at least 5"),
        (["12", "", "", "..", "text"], "leads out of the folder"),
        (["12", "", "", "/etc", "text"], "leads out of the folder"),
        (["a\0b", "", "", "p", "text"], "a file name is expected"),
    ],
)
def test_webvid_bad_rows(tmp_path, row, words):
    assert words in fault(open_file(write_csv(tmp_path / "train.csv", WEBVID, [row])))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("videoid,page_dir\n1,2\n", "no column 'name' (or caption, text)"),
        ("page_dir,name\n1,2\n", "no column 'videoid' (or video_id, id)"),
        ("", "empty"),
        ('videoid,name\n1,"open\n2,b\n', "a quote is opened and never closed"),
    ],
)
def test_webvid_bad_files(tmp_path, content, words):
    path = tmp_path / "train.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"train\.csv") as caught:
        open_file(path)
    assert words in str(caught.value)


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"videoid,name\n1,good\n2,caf\xe9\n")
    found = open_file(path)
    assert found[0].answers == ("good",)
    assert "UTF-8" in fault(found, 1)


# Captions


def test_captions_of_both_stages(tmp_path, save_json):
    (tmp_path / "image").mkdir()
    rows = [{"image_id": "0001", "caption": "A dog."}, {"image_id": 2, "caption": " A cat. "}]
    path = save_json(tmp_path / "filter_cap.json", {"info": [1, {"a": 2}], "annotations": rows})
    found = open_file(path)
    assert [found[number].media() for number in (0, 1)] == [
        [("image", tmp_path / "image/0001.jpg")],
        [("image", tmp_path / "image/2.jpg")],
    ]
    assert found[1].messages[1]["content"] == "A cat."
    assert len(found[0].messages[0]["content"]) == 1
    described = open_file(path, "descriptions")[0]
    assert described.caption
    assert described.messages[0]["content"][1]["text"] == "Describe this image in detail."


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image_id": "1"}, "there is no 'caption'; the row has image_id"),
        ({"caption": "x"}, "there is no 'image_id'"),
        ({"image_id": "1", "caption": " "}, "the caption is empty"),
        ({"image_id": "1", "caption": ["x"]}, "the caption must be a text"),
        ({"image_id": None, "caption": "x"}, "image_id must be a name"),
        ({"image_id": "../../secret", "caption": "x"}, "leads out of the folder"),
        ("text", "a row must be an object"),
    ],
)
def test_captions_bad_rows(tmp_path, save_json, row, words):
    path = save_json(tmp_path / "filter_cap.json", {"annotations": [row]})
    assert words in fault(open_file(path))


# LLaVA


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def test_llava(tmp_path, save_json):
    rows = [
        {
            "id": "7",
            "image": "train/7.jpg",
            "conversations": [
                human("Compare\n<image>"),
                gpt("A dog.\n"),
                human("Why?"),
                gpt("It barks, says <image>."),
            ],
        },
        {"id": "8", "conversations": [human("Hello"), gpt("Hi")]},
    ]
    found = open_file(save_json(tmp_path / "llava.json", rows))
    sample = found[0]
    assert not sample.caption
    assert sample.messages[0]["content"] == [
        {"type": "text", "text": "Compare"},
        {"type": "image", "image": tmp_path / "train/7.jpg"},
    ]
    assert sample.answers == ("It barks, says <image>.",)
    assert [message.role for message in parse_conversation(sample.messages)] == [
        "user",
        "assistant",
    ] * 2
    assert found[1].media() == []


def test_one_line_break_beside_a_picture_is_left_to_the_template(tmp_path, save_json):
    row = {"image": "7.jpg", "conversations": [human("a\n\n<image>\n\nb"), gpt("x")]}
    content = open_file(save_json(tmp_path / "llava.json", [row]))[0].messages[0]["content"]
    assert [part.get("text") for part in content] == ["a\n\n", None, "\n\nb"]


def test_an_image_is_a_video_where_only_videos_are_named(tmp_path, save_json):
    row = {"video": "a.mp4", "conversations": [human("<image>\nWhat?"), gpt("An <image>.")]}
    sample = open_file(save_json(tmp_path / "llava.json", [row]))[0]
    assert sample.messages[0]["content"] == [
        {"type": "video", "video": tmp_path / "a.mp4"},
        {"type": "text", "text": "What?"},
    ]
    assert sample.answers == ("An <image>.",)


def test_an_empty_system_text_is_left_out(tmp_path, save_json, save_lines):
    turns = [{"from": "system", "value": " "}, human("Hello"), gpt("Hi")]
    llava = open_file(save_json(tmp_path / "llava.json", [{"conversations": turns}]))
    contents = ("", " ", [], [{"type": "text", "text": ""}])
    rows = [
        {"messages": [{"role": "system", "content": content}, *messages("Hello", "Hi")["messages"]]}
        for content in contents
    ]
    lines = open_file(save_lines(tmp_path / "mine.jsonl", rows))
    for sample in (llava[0], *(lines[number] for number in range(len(contents)))):
        assert [message["role"] for message in sample.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "7.jpg"}, "there is no 'conversations'"),
        ({"image": "7.jpg", "conversations": []}, "list of turns that is not empty"),
        (
            {"image": "7.jpg", "conversations": [human("What?"), gpt("x")]},
            "the questions have 0 <image> and the row names 1 under 'image'",
        ),
        (
            {"conversations": [human("<image>\n<image>"), gpt("x")]},
            "the questions have 2 <image> and the row names 0",
        ),
        (
            {"image": "7.jpg", "video": "a.mp4", "conversations": [human("<image>"), gpt("x")]},
            "the questions have 0 <video> and the row names 1",
        ),
        ({"image": "7.jpg", "conversations": [human("<image>"), gpt(" ")]}, "the answer is empty"),
        ({"conversations": [human("a")]}, "must follow in turn and end with an answer"),
        ({"conversations": [human("a"), human("b"), gpt("c")]}, "here they are user, user"),
        ({"conversations": [{"from": "dog", "value": "a"}]}, "turn 1 is from 'dog'"),
        ({"conversations": ["a"]}, "turn 1 is from None"),
        (
            {"conversations": [{"from": "system", "value": 3}, human("a"), gpt("b")]},
            "the system text must be a text, not 3",
        ),
        (
            {"video": "a.mp4", "conversations": [human("<image><image>"), gpt("x")]},
            "the questions have 2 <video> and the row names 1",
        ),
        (
            {"video": "a.mp4", "image": "a.jpg", "conversations": [human("<image>"), gpt("x")]},
            "the questions have 0 <video> and the row names 1",
        ),
        ({"conversations": [human(3), gpt("a")]}, "the question must be a text, not 3"),
        (
            {"image": "../7.jpg", "conversations": [human("<image>"), gpt("x")]},
            "leads out of the folder",
        ),
        (
            {"image": ["7.jpg", 3], "conversations": [human("<image><image>"), gpt("x")]},
            "the name of the image must be a text",
        ),
    ],
)
def test_llava_bad_rows(tmp_path, save_json, row, words):
    assert words in fault(open_file(save_json(tmp_path / "llava.json", [row]), "llava"))


# VideoChat


def test_videochat(tmp_path, save_json):
    pairs = [{"q": "What?", "a": "A dog."}, {"q": "Where?", "a": "Here."}]
    told = [{"i": "Describe.", "q": "", "a": "It runs."}, {"i": "Describe.", "q": "b", "a": "c"}]
    rows = [
        {"video": "001/12.mp4", "QA": pairs},
        ["001/13.mp4", [["What?", "A cat."]]],
        {"video": "001/14.mp4", "QA": told},
        {"image": "001/15.jpg", "QA": pairs[0]},
    ]
    (tmp_path / "videos").mkdir()
    found = open_file(save_json(tmp_path / "videochat.json", rows))
    folder = tmp_path / "videos/001"
    assert [found[n].media() for n in range(4)] == [
        [("video", folder / "12.mp4")],
        [("video", folder / "13.mp4")],
        [("video", folder / "14.mp4")],
        [("image", folder / "15.jpg")],
    ]
    texts = [[one["content"] for one in found[n].messages if one["role"] != "user"] for n in (0, 2)]
    assert texts == [["A dog.", "Here."], ["Describe.", "It runs.", "c"]]
    assert parse_conversation(found[2].messages)[1].text == ""
    assert found[0].messages[2]["content"] == [{"type": "text", "text": "Where?"}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"video": "a.mp4"}, "there is no 'QA'"),
        ({"QA": [{"q": "a", "a": "b"}]}, "there is no 'video'"),
        ({"video": "a.mp4", "QA": []}, "no questions and answers"),
        ({"video": "a.mp4", "QA": "text"}, "must be a list"),
        ({"video": "a.mp4", "QA": [{"q": "a"}]}, "pair 1 must have"),
        ({"video": "a.mp4", "QA": [{"q": "a", "a": ""}]}, "answer 1 is empty"),
        ({"video": "a.mp4", "QA": [{"q": "", "a": "b"}]}, "question 1 is empty"),
        ({"video": "a.mp4", "QA": [{"q": None, "a": "b"}]}, "question 1 must be a text"),
        ({"video": 3, "QA": [{"q": "a", "a": "b"}]}, "a file name is expected where 3 stands"),
        ([1, 2, 3], "must be an object"),
    ],
)
def test_videochat_bad_rows(tmp_path, save_json, row, words):
    assert words in fault(open_file(save_json(tmp_path / "videochat.json", [row]), "videochat"))


# JSON lines


def test_jsonl_forms(tmp_path, save_lines):
    video = {"type": "video", "url": "a.mp4"}
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": [video, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
            ]
        },
        {"audio": ["a.wav"], "conversations": [human("<audio>\nWhat?"), gpt("A bell.")]},
        {"image": "a.jpg", "captions": ["a dog", "one dog"]},
        {"video": "data:video/mp4;base64,AAAA", "caption": "a dog", "instruction": "Describe."},
    ]
    path = save_lines(tmp_path / "mine.jsonl", rows)
    path.write_text("\ufeff" + path.read_text().replace("\n", "\n \n") + "\n\n")
    found = open_file(path)
    assert len(found) == 4
    samples = [found[number] for number in range(4)]
    assert [sample.media() for sample in samples] == [
        [("video", tmp_path / "a.mp4")],
        [("audio", tmp_path / "a.wav")],
        [("image", tmp_path / "a.jpg")],
        [("video", "data:video/mp4;base64,AAAA")],
    ]
    assert samples[0].messages[2]["content"] == "A dog."
    assert samples[2].answers == ("a dog", "one dog")
    assert [sample.caption for sample in samples] == [False, False, True, True]


def messages(*contents):
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x"}, "a row needs one of messages, conversations, captions, caption"),
        ({}, "it has nothing"),
        ({"messages": "x"}, "'messages' must be a list"),
        (messages("What?"), "the last message must be an answer"),
        (messages("What?", " "), "the answer is empty"),
        (messages("", "x"), "message 1 is empty"),
        (messages([{"type": "film"}], "x"), "a part of type 'film'"),
        (messages([{"type": "image"}], "x"), "a file name is expected where None"),
        (messages([{"type": "image", "image": "http://a/b.jpg"}], "x"), "leads out"),
        (messages([{"type": "video", "video": "a.mp4", "times": ["a"]}], "x"), "list of seconds"),
        (messages([{"type": "video", "video": "a.mp4", "times": 3}], "x"), "list of seconds"),
        (messages([{"type": "video", "times": [10**400]}], "x"), "list of seconds"),
        ({"video": "a.mp4", "caption": None}, "'caption' is null; it must be a text"),
        ({"messages": None}, "'messages' is null; it must be a list"),
        ({"caption": "a dog"}, "give one of image, video, audio, not none"),
        ({"caption": "a", "image": "a.jpg", "video": "b.mp4"}, "not image and video"),
        ({"captions": [], "image": "a.jpg"}, "a list of texts that is not empty"),
        ({"captions": ["a", ""], "image": "a.jpg"}, "a caption is empty"),
        ([], "a row must be an object"),
    ],
)
def test_jsonl_bad_rows(tmp_path, save_lines, row, words):
    assert words in fault(open_file(save_lines(tmp_path / "mine.jsonl", [row])))


def test_a_torn_line_is_one_bad_row(tmp_path, save_lines):
    path = save_lines(tmp_path / "mine.jsonl", [{"image": "a.jpg", "caption": "a"}] * 3)
    path.write_bytes(path.read_bytes()[:-9])
    found = open_file(path)
    assert found[1].answers == ("a",)
    assert "not JSON" in fault(found, 2)


# Paths


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "a\\..\\..\\x.jpg", "http://a/x.jpg", "", 3],
)
def test_names_stay_in_the_folder(tmp_path, save_lines, name):
    row = {"messages": messages([{"type": "image", "image": name}], "x")["messages"]}
    fault(open_file(save_lines(tmp_path / "mine.jsonl", [row])))


def test_a_full_path_inside_the_folder_is_accepted(tmp_path, save_lines):
    row = {"image": str(tmp_path / "a/b.jpg"), "caption": "x"}
    found = open_file(save_lines(tmp_path / "mine.jsonl", [row]))
    assert found[0].media() == [("image", tmp_path / "a/b.jpg")]
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    assert "leads out" in fault(open_file(tmp_path / "mine.jsonl", media=str(elsewhere)))


def test_full_paths_and_folders_may_be_spelled_with_links(tmp_path, save_lines, monkeypatch):
    real = tmp_path / "real"
    (real / "media").mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    picture = real / "media/a.jpg"
    picture.touch()
    (real / "outside.jpg").touch()
    for folder, place in ((tmp_path / "link/media", real), (real / "media", tmp_path / "link")):
        assert media_path("k", folder, str(place / "media/a.jpg")).resolve() == picture
        with pytest.raises(DataError, match="leads out of"):
            media_path("k", folder, str(place / "outside.jpg"))


def test_the_folder_of_the_media_is_named_in_full(tmp_path, save_lines, monkeypatch):
    save_lines(tmp_path / "mine.jsonl", [{"image": "../a.jpg", "caption": "x"}])
    monkeypatch.chdir(tmp_path)
    assert f"the folder of the media, {tmp_path.resolve()};" in fault(open_file("mine.jsonl"))


# Files


def test_formats_are_found_out(tmp_path, save_json):
    contents = {
        "captions": {"annotations": []},
        "llava": [{"id": "1", "conversations": []}],
        "videochat": [{"video": "a", "QA": []}],
    }
    for expected, content in contents.items():
        assert detect_format(str(save_json(tmp_path / f"{expected}.json", content))) == expected
    for content in ({"a": 1}, [[1]], [3], [{"x": "y" * 70_000}]):
        path = save_json(tmp_path / "other.json", content)
        with pytest.raises(DataError, match=r"its format does not show; give it with --format"):
            detect_format(str(path))
    assert detect_format(str(tmp_path)) == "shards"
    assert detect_format("x-{0..3}.tar") == "shards"
    assert detect_format("x.csv") == "webvid"
    with pytest.raises(DataError, match=r"in a recipe with data\.0\.format="):
        detect_format("x.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "other.json is empty"),
        (" \n", "other.json is empty"),
        ("[]", "other.json holds an empty list"),
        ("[", "other.json is no JSON: Expecting value"),
        ('[{"conversations": [{"from"', "other.json is no JSON"),
        ('{"annot', "other.json is no JSON"),
        ("nonsense", "other.json is no JSON"),
        ("[" * 60_000, "other.json is no JSON: lists or objects are nested too deep"),
    ],
)
def test_a_file_without_rows_is_not_one_of_unknown_format(tmp_path, text, words):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        detect_format(str(path))
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("format", ["webvid", "captions", "llava", "videochat", "jsonl"])
def test_files_that_cannot_be_opened(tmp_path, format):
    with pytest.raises(DataError, match="there is no file of data"):
        open_file(tmp_path / "nowhere.json", format)
    with pytest.raises(DataError, match="is a folder"):
        open_file(tmp_path, format)
    (tmp_path / "here").write_text("[")
    with pytest.raises(DataError, match="there is no folder of media"):
        open_file(tmp_path / "here", format, media=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"conversations": 1}', "is no JSON"),
        ('[{"conversations": 1} {"a": 2}]', "is no JSON"),
        ("[nonsense]", "is no JSON"),
        ('{"a": [1]}', "must hold a list"),
        ("", "must hold a list"),
        ("[1, " + "[" * 60_000, "in row 1 or before: lists or objects are nested too deep"),
        (f"[{'1' * 5000}]", "in row 0 or before"),
    ],
)
def test_damaged_json(tmp_path, text, words):
    path = tmp_path / "llava.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"llava\.json") as caught:
        open_file(path, "llava")
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ['{"annotations":', '{"annotations": ', '{"annotations"'])
def test_captions_cut_off_before_their_list(tmp_path, text):
    (tmp_path / "filter_cap.json").write_text(text)
    with pytest.raises(DataError, match=r"filter_cap\.json is no JSON: .*may be cut off"):
        open_file(tmp_path / "filter_cap.json")


def test_a_file_that_vanishes_is_a_bad_row(tmp_path, save_lines):
    path = save_lines(tmp_path / "mine.jsonl", [{"image": "a.jpg", "caption": "a"}])
    found = open_file(path)
    path.unlink()
    assert "cannot be read" in fault(found)


def test_settings_are_checked():
    for fields in ({"format": "coco"}, {"path": ""}, {"weight": 0}, {"weight": -1.0}):
        with pytest.raises(OptionError):
            DatasetSpec(**{"path": "x", **fields})


def test_rows_can_be_sent_to_workers(tmp_path, save_json):
    row = {"conversations": [human("Hello"), gpt("Hi")]}
    found = open_file(save_json(tmp_path / "llava.json", [row, row]))
    copy = pickle.loads(pickle.dumps(found))
    assert copy[1] == found[1]


def test_json_rows_are_where_they_are(tmp_path):
    """White space, escapes, other letters and a byte order mark do not move them."""
    rows = [
        {"conversations": [human(f'{text} 你好 \\ " ]}} {number}'), gpt("é")], "n": [[], {}]}
        for number, text in enumerate(["a", "ü", "\n"])
    ]
    path = tmp_path / "llava.json"
    text = " ,\n\t ".join(json.dumps(row, ensure_ascii=bool(n)) for n, row in enumerate(rows))
    path.write_text(f"\ufeff [ {text} ] ", encoding="utf-8")
    found = open_file(path, "llava")
    assert len(found) == 3
    for number, row in enumerate(rows):
        question = row["conversations"][0]["value"]
        assert found[number].messages[0]["content"][0]["text"] == question

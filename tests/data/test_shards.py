"""WebDataset shards: which files, where each sample is, what it becomes."""

import io
import json
import pickle
import tarfile

import pytest

from video_llama.data import shards
from video_llama.data.formats import DatasetSpec, open_dataset
from video_llama.data.shards import expand_braces, open_shards, shard_paths
from video_llama.errors import DataError

DOG = {"caption": "a dog"}


def write_tar(path, members, format=tarfile.PAX_FORMAT):
    """`members`: names with bytes, a text, or a value for JSON."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, value in members:
            if value is None:
                info = tarfile.TarInfo(name)
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def fault(rows, number=0):
    with pytest.raises(DataError) as caught:
        rows[number]
    return str(caught.value)


def test_samples_by_number(tmp_path):
    for shard in range(3):
        members = []
        for number in range(4):
            name = f"set/{shard}-{number}"
            members += [
                (f"{name}.jpg", b"x" * (700 * number)),
                (f"{name}.json", {"captions": [f"{shard} {number}", "other"]}),
            ]
        write_tar(tmp_path / f"s-{shard}.tar", [("set", None), *members, ("README", b"no sample")])
    rows = open_dataset(DatasetSpec(str(tmp_path), name="set"))
    assert len(rows) == 12
    for number in (11, 0, 5, 4):
        sample = rows[number]
        assert sample.key == f"set#{number}"
        path = tmp_path / f"s-{number // 4}.tar"
        assert sample.identity == f"{path}/set/{number // 4}-{number % 4}"
        assert sample.answers == (f"{number // 4} {number % 4}", "other")
        assert sample.media() == [("image", b"x" * (700 * (number % 4)))]
    assert pickle.loads(pickle.dumps(rows))[7] == rows[7]
    with pytest.raises(IndexError):
        rows[12]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names(tmp_path, format):
    names = ["a" * 60 + "/" + "b" * 90, "plain", "x/" + "c" * 80]
    if format != tarfile.USTAR_FORMAT:
        names += ["狗" * 80, "d" * 300]
    members = [
        pair
        for name in names
        for pair in ((f"{name}.PNG", name.encode()), (f"{name}.json", {"caption": name[:9]}))
    ]
    rows = open_shards("x", str(write_tar(tmp_path / "x.tar", members, format)))
    found = [rows[n].identity for n in reversed(range(len(rows)))]
    assert found == [f"{tmp_path / 'x.tar'}/{name}" for name in reversed(names)]
    assert [rows[n].media() for n in range(len(rows))] == [[("image", n.encode())] for n in names]


def test_forms_of_text(tmp_path):
    question = [{"type": "video"}, {"type": "image", "image": "0.png"}, "Which?"]
    turns = [{"from": "human", "value": "<image><image>Which?"}, {"from": "gpt", "value": "One."}]
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("a.mp4", b"film"),
            ("a.0.png", b"zero"),
            ("a.1.png", b"one"),
            (
                "a.json",
                {
                    "messages": [
                        {"role": "user", "content": question},
                        {"role": "assistant", "content": "x"},
                    ]
                },
            ),
            ("b.0.jpg", b"zero"),
            ("b.1.jpg", b"one"),
            ("b.json", {"image": "/home/me/b.jpg", "conversations": turns}),
            ("c.ogg", b"sound"),
            ("c.txt", b"a bell rings"),
            ("d.jpg", b"picture"),
            ("d.json", {"url": "http://x", "width": 3}),
            ("d.txt", b"a dog"),
            ("e.gif", b"film"),
            ("e.json", {"video": "gif", "caption": "a cat", "instruction": "Describe."}),
        ],
    )
    rows = open_shards("x", str(path))
    assert [rows[n].media() for n in range(5)] == [
        [("video", b"film"), ("image", b"zero")],
        [("image", b"zero"), ("image", b"one")],
        [("audio", b"sound")],
        [("image", b"picture")],
        [("video", b"film")],
    ]
    assert [rows[n].caption for n in range(5)] == [False, False, True, True, True]
    assert rows[2].answers == ("a bell rings",)
    assert rows[4].messages[0]["content"][1]["text"] == "Describe."


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", b"x")], "a has no text"),
        ([("a.jpg", b"x"), ("a.json", {"label": 3})], "a has no text"),
        ([("a.jpg", b"x"), ("a.json", b"{")], "not JSON"),
        ([("a.jpg", b"x"), ("a.json", [1])], "a row must be an object"),
        ([("a.json", DOG)], "give one of image, video, audio, not none"),
        ([("a.jpg", b"x"), ("a.wav", b"x"), ("a.json", DOG)], "not image and audio"),
        (
            [
                ("a.jpg", b"x"),
                (
                    "a.json",
                    {
                        "messages": [
                            {"role": "user", "content": [{"type": "image", "image": "png"}]},
                            {"role": "assistant", "content": "x"},
                        ]
                    },
                ),
            ],
            "there is no medium 'png' among its members: jpg, json",
        ),
        (
            [
                (
                    "a.json",
                    {
                        "messages": [
                            {"role": "user", "content": [{"type": "image"}]},
                            {"role": "assistant", "content": "x"},
                        ]
                    },
                ),
            ],
            "fewer image members",
        ),
    ],
)
def test_bad_samples(tmp_path, members, words):
    rows = open_shards("x", str(write_tar(tmp_path / "x.tar", members)))
    assert fault(rows).startswith("x#0: ")
    assert words in fault(rows)


def test_messages_may_name_the_files_that_a_shard_was_made_from(tmp_path):
    content = [{"type": "image", "image": "coco/0.jpg"}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]
    members = [("a.jpg", b"pixels"), ("a.json", {"messages": messages})]
    rows = open_shards("x", str(write_tar(tmp_path / "x.tar", members)))
    assert rows[0].media() == [("image", b"pixels")]


def test_damage(tmp_path):
    members = [(f"{n}.{suffix}", b"x" * 600) for n in range(4) for suffix in ("jpg", "txt")]
    path = write_tar(tmp_path / "x.tar", members)
    whole = path.read_bytes()
    rows = open_shards("x", str(path))
    path.write_bytes(whole[:2500])
    assert "x.tar" in fault(rows, 3)
    assert "is damaged" in fault(rows, 0)
    with pytest.raises(DataError, match=r"x\.tar is no whole tar file"):
        open_shards("x", str(path))
    block = 2 * (512 + 1024)
    path.write_bytes(whole[:block] + b"?" * 512 + whole[block + 512 :])
    with pytest.raises(DataError, match="there is no header at byte 3,072"):
        open_shards("x", str(path))
    path.write_bytes(b"not a tar" * 100)
    with pytest.raises(DataError, match=r"x\.tar is no whole tar file"):
        open_shards("x", str(path))
    path.write_bytes(whole[block:])
    assert len(open_shards("x", str(path))) == 3
    assert rows[0].identity.endswith("x.tar/1")  # another sample has taken its place, whole
    path.unlink()
    assert "cannot be read" in fault(rows, 0)


def test_a_shard_that_changed_is_noticed(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"x"), ("a.txt", b"x"), ("b.jpg", b"x")])
    rows = open_shards("x", str(path))
    write_tar(path, [("a.jpg", b"x"), ("b.txt", b"x"), ("b.jpg", b"x")])
    assert "has changed since its index was made" in fault(rows, 0)


def test_what_macos_packs_beside_the_members_is_no_sample(tmp_path):
    members = [
        (".DS_Store", b"x"),
        ("set/._a.jpg", b"x"),
        ("set/a.jpg", b"picture"),
        ("set/._a.txt", b"x"),
        ("set/a.txt", b"a dog"),
        ("._b.jpg", b"x"),
        ("b.jpg", b"other"),
        ("b.txt", b"a cat"),
    ]
    rows = open_shards("x", str(write_tar(tmp_path / "x.tar", members)))
    assert [rows[n].answers for n in range(len(rows))] == [("a dog",), ("a cat",)]
    assert rows[0].media() == [("image", b"picture")]


def test_an_image_is_a_video_where_there_are_only_videos(tmp_path):
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A dog."}]
    members = [("a.mp4", b"film"), ("a.json", {"video": "a/b.mp4", "conversations": turns})]
    rows = open_shards("x", str(write_tar(tmp_path / "x.tar", members)))
    assert rows[0].media() == [("video", b"film")]


def test_which_shards(tmp_path):
    for name in ("a-00.tar", "a-01.tar", "a-02.tar", "b.tar"):
        write_tar(tmp_path / name, [("x.jpg", b"x")])

    def names(pattern):
        return [path.name for path in shard_paths(str(tmp_path / pattern))]

    assert names("") == ["a-00.tar", "a-01.tar", "a-02.tar", "b.tar"]
    assert names("a-{00..01}.tar") == ["a-00.tar", "a-01.tar"]
    assert names("a-*.tar") == ["a-00.tar", "a-01.tar", "a-02.tar"]
    assert names("{b,a-02}.tar") == ["b.tar", "a-02.tar"]
    assert names("b.tar") == ["b.tar"]
    for pattern, words in (
        ("a-{01..03}.tar", "there is no shard a-03.tar of 3"),
        ("c-*.tar", "there is no .tar file"),
        ("c.tar", "there is no shard c.tar of 1"),
    ):
        with pytest.raises(DataError) as caught:
            names(pattern)
        assert words in str(caught.value)


def test_brackets_in_names_that_are_there_stand_for_themselves(tmp_path):
    folder = tmp_path / "[2024] set"
    folder.mkdir()
    for number in range(2):
        (folder / f"x-{number}.tar").touch()
    names = ["x-0.tar", "x-1.tar"]
    for pattern in ("x-{0..1}.tar", "x-*.tar"):
        assert [path.name for path in shard_paths(f"{folder}/{pattern}")] == names


def test_braces():
    assert expand_braces("a{08..10}{x,y}") == ["a08x", "a08y", "a09x", "a09y", "a10x", "a10y"]
    assert expand_braces("plain") == ["plain"]


def test_an_index_beside_a_shard_is_used_only_if_it_is_of_it(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"x"), ("a.txt", b"x"), ("b.txt", b"x")])
    found = shards.scan_shard(path)
    header = shards.index_header(path.stat().st_size, len(found))
    index = tmp_path / "x.tar.idx"
    index.write_bytes(json.dumps(header).encode() + b"\n" + found.tobytes())
    with monkeypatch.context() as patch:
        patch.setattr(shards, "scan_shard", None)  # it would be called in vain
        assert open_shards("x", str(path))[0].answers == ("x",)
    for damaged in (b"", b"\n", index.read_bytes()[:-1], index.read_bytes()[:-12], b"{}\n"):
        index.write_bytes(damaged)
        assert shards.read_index(path) is None
        assert len(open_shards("x", str(path))) == 2


def test_real_shards(media_dir):
    """Real data, where a machine has them beside the real clips."""
    folder = media_dir.parent / "datasets" / "realsmall"
    if not folder.is_dir():
        pytest.skip("no real shards beside the real clips")
    rows = open_dataset(DatasetSpec(str(folder / "sounds-esc10-test-*.tar")))
    assert len(rows) == 80
    assert rows[3].media()[0][0] == "audio"
    assert rows[3].media()[0][1].startswith(b"OggS")


def test_a_member_that_comes_again_begins_another_sample(tmp_path):
    members = [("1.jpg", b"one"), ("1.txt", b"cap one"), ("1.jpg", b"two"), ("1.txt", b"cap two")]
    rows = open_shards("joined", str(write_tar(tmp_path / "joined.tar", members)))
    assert len(rows) == 2
    for number, (picture, caption) in enumerate(((b"one", "cap one"), (b"two", "cap two"))):
        assert rows[number].media() == [("image", picture)]
        assert rows[number].answers == (caption,)
    members = [("1.jpg", b"one"), ("1.JPG", b"two"), ("1.txt", b"cap")]
    rows = open_shards("twice", str(write_tar(tmp_path / "twice.tar", members)))
    assert "has no text" in fault(rows)
    assert rows[1].media() == [("image", b"two")]


def test_media_are_in_the_order_of_their_numbers(tmp_path):
    turns = [
        {"from": "human", "value": "<image>" * 12 + "What?"},
        {"from": "gpt", "value": "Twelve."},
    ]
    media = sorted((f"s.{number}.jpg", f"{number}".encode()) for number in range(12))
    path = write_tar(tmp_path / "s.tar", [*media, ("s.json", {"conversations": turns})])
    sample = open_shards("s", str(path))[0]
    assert [content for _, content in sample.media()] == [str(n).encode() for n in range(12)]


def test_one_caption_is_about_one_picture(tmp_path):
    pictures = [("x.0.jpg", b"a"), ("x.1.jpg", b"b")]
    rows = open_shards("x", str(write_tar(tmp_path / "x.tar", [*pictures, ("x.txt", b"a dog")])))
    assert "x has 2 image members and one caption" in fault(rows)
    named = ("x.json", {"caption": "a dog", "image": "0.jpg"})
    rows = open_shards("x", str(write_tar(tmp_path / "y.tar", [*pictures, named])))
    assert rows[0].media() == [("image", b"a")]


def test_captions_in_text_files_are_utf_8(tmp_path):
    members = [("a.jpg", b"1"), ("a.txt", b"\xef\xbb\xbfa dog"), ("b.jpg", b"2")]
    members.append(("b.txt", b"\xff\xfe\x00bad"))
    rows = open_shards("t", str(write_tar(tmp_path / "t.tar", members)))
    assert rows[0].answers == ("a dog",)
    assert "b.txt" in fault(rows, 1) or "its .txt is not text in UTF-8" in fault(rows, 1)

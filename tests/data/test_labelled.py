import io
import json
import tarfile

import pytest

from video_llama.data.labelled import read_labelled
from video_llama.errors import DataError


def write_shard(path, items):
    with tarfile.open(path, "w") as tar:
        for name, content in items:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def about(label):
    return json.dumps({"label": label, "licence": "CC0"}).encode()


def test_items_come_in_the_order_of_the_shards(tmp_path):
    write_shard(
        tmp_path / "images-b-test-00.tar", [("2.json", about("cat")), ("2.png", b"picture 2")]
    )
    write_shard(
        tmp_path / "images-a-test-00.tar",
        [
            ("._0.jpg", b"of macOS"),
            ("0.jpg", b"picture 0"),
            ("note.txt", b"-"),
            ("0.json", about("dog")),
        ],
    )
    write_shard(tmp_path / "sounds-a-test-00.tar", [("9.json", about("dog")), ("9.ogg", b"bark")])
    items = list(read_labelled(tmp_path, "images", "test"))
    assert [(i.key, i.label, i.suffix, i.data) for i in items] == [
        ("0", "dog", "jpg", b"picture 0"),
        ("2", "cat", "png", b"picture 2"),
    ]
    assert items[0].about["licence"] == "CC0"
    (sound,) = read_labelled(tmp_path, "sounds", "test")
    assert (sound.label, sound.suffix) == ("dog", "ogg")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("0.jpg", b"x")], "0 has no label or no file"),
        ([("0.jpg", b"x"), ("0.json", b"{")], "cannot be read"),
        ([("0.jpg", b"x"), ("0.json", b"[" * 100_000)], "cannot be read"),
        ([("0.jpg", b"x"), ("0.json", b"{}")], 'no "label"'),
    ],
)
def test_bad_items_are_named(tmp_path, items, message):
    write_shard(tmp_path / "images-a-train-00.tar", items)
    with pytest.raises(DataError, match=message):
        list(read_labelled(tmp_path, "images", "train"))


def test_bad_folders_and_shards(tmp_path):
    with pytest.raises(DataError, match="there is no images"):
        list(read_labelled(tmp_path, "images", "train"))
    (tmp_path / "images-a-train-00.tar").write_bytes(b"not a tar file at all" * 60)
    with pytest.raises(DataError, match="is no tar file"):
        list(read_labelled(tmp_path, "images", "train"))

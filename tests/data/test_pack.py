"""`data pack`: what it writes is what it was given, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from video_llama.alone import alone
from video_llama.data import pack as packing
from video_llama.data.formats import DatasetSpec, open_dataset
from video_llama.data.pack import media_suffix, pack, read_source
from video_llama.errors import DataError

SMALL = 20_000  # bytes of a shard: several shards even of small data


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def as_packed(sample):
    """A sample with its media as bytes, without its key and name."""
    messages = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [
                {"type": part["type"], part["type"]: read_source(part[part["type"]])}
                if isinstance(part, dict) and part["type"] != "text"
                else part
                for part in content
            ]
        messages.append({"role": message["role"], "content": content})
    return messages, sample.caption, sample.others


@pytest.fixture
def rich_lines(tmp_path, save_picture, save_sound, save_lines, clip_path):
    """Rows of every form, some of them bad: numbers 2, 4 and 6."""
    folder = tmp_path / "source"
    save_picture(folder / "a.png")
    save_picture(folder / "b.jpg", shade=30)
    save_sound(folder / "a.wav")
    (folder / "a.mkv").write_bytes(clip_path.read_bytes())
    (folder / "film.bin").write_bytes(clip_path.read_bytes())
    two = [{"type": "image", "image": "a.png"}, {"type": "audio", "audio": "a.wav"}, "Same?"]
    rows = [
        {"image": "a.png", "captions": ["a dog", "一只狗"]},
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": two},
                {"role": "assistant", "content": "No."},
                {"role": "user", "content": [{"type": "image", "image": "b.jpg"}]},
                {"role": "assistant", "content": "Yes."},
            ]
        },
        {"image": "nowhere.png", "caption": "x"},
        {"video": "film.bin", "caption": "a cat", "instruction": "Describe."},
        {"image": "a.png", "caption": ""},
        {
            "image": ["b.jpg", "a.png"],
            "conversations": [
                {"from": "human", "value": "<image>\n<image>\nWhich?"},
                {"from": "gpt", "value": "One."},
            ],
        },
        {"image": "nowhere.png", "caption": "y"},
    ]
    return save_lines(folder / "rich.jsonl", rows)


def test_shards_hold_what_was_given(tmp_path, rich_lines):
    out = tmp_path / "out"
    manifest = pack(DatasetSpec(str(rich_lines)), out, shard_bytes=SMALL)
    assert manifest.complete
    assert manifest.samples == 4
    assert len(manifest.shards) > 1
    packed, source = open_dataset(DatasetSpec(str(out))), open_dataset(DatasetSpec(str(rich_lines)))
    good = [0, 1, 3, 5]
    names = [packed[n].identity.rpartition("/")[2] for n in range(len(packed))]
    assert names == [f"{n:09d}" for n in good]
    assert [as_packed(packed[n]) for n in range(4)] == [as_packed(source[n]) for n in good]
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [line["row"] for line in skipped] == [2, 4, 6]
    assert "nowhere.png" in skipped[0]["reason"]
    assert "rich.jsonl#4: a caption is empty" in skipped[1]["reason"]
    names = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert names == [
        "000000000.json", "000000000.png",
        "000000001.json", "000000001.0.png", "000000001.1.wav", "000000001.2.jpg",
        "000000003.json", "000000003.mkv",
        "000000005.json", "000000005.0.jpg", "000000005.1.png",
    ]  # fmt: skip


def test_the_same_rows_give_the_same_bytes(tmp_path, rich_lines, monkeypatch):
    for name in ("one", "two"):
        pack(DatasetSpec(str(rich_lines)), tmp_path / name, shard_bytes=SMALL)
        monkeypatch.setenv("TZ", "Asia/Shanghai")
        os.utime(rich_lines.parent / "a.png", (1, 1))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    # Packing what was packed changes nothing but the names it came under.
    again = tmp_path / "again"
    pack(DatasetSpec(str(tmp_path / "one")), again, shard_bytes=SMALL)
    one, other = (open_dataset(DatasetSpec(str(path))) for path in (tmp_path / "one", again))
    assert [as_packed(one[n]) for n in range(4)] == [as_packed(other[n]) for n in range(4)]


def test_shards_keep_to_their_size(tmp_path, save_lines):
    rows = []
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(os.urandom(800 * number + 1))
        rows.append({"image": f"{number}.jpg", "caption": str(number)})
    path = save_lines(tmp_path / "rows.jsonl", rows)
    manifest = pack(DatasetSpec(str(path)), tmp_path / "out", shard_bytes=50_000)
    assert len(manifest.shards) > 3
    for shard in manifest.shards:
        assert (tmp_path / "out" / shard.name).stat().st_size == shard.bytes <= 50_000
    assert [shard.first for shard in manifest.shards[1:]] == [
        shard.next for shard in manifest.shards[:-1]
    ]
    # A sample that is larger than a shard has one of its own.
    alone = pack(DatasetSpec(str(path)), tmp_path / "tiny", shard_bytes=1000)
    assert [shard.samples for shard in alone.shards] == [1] * 20


def test_the_webdataset_library_reads_them(tmp_path, rich_lines):
    webdataset = pytest.importorskip("webdataset")
    out = tmp_path / "out"
    manifest = pack(DatasetSpec(str(rich_lines)), out, shard_bytes=SMALL)
    pattern = f"{out}/shard-{{000000..{len(manifest.shards) - 1:06d}}}.tar"
    read = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in read] == [f"{n:09d}" for n in (0, 1, 3, 5)]
    assert read[0]["json"]["captions"] == ["a dog", "一只狗"]
    assert read[0]["png"].shape == (30, 40, 3)
    assert read[3]["1.png"].shape == (30, 40, 3)
    assert read[1]["1.wav"] is not None


def test_we_read_what_the_webdataset_library_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for number in range(3):
            writer.write(
                {"__key__": f"x/{number}", "jpg": b"picture", "json": {"caption": str(number)}}
            )
    rows = open_dataset(DatasetSpec(str(tmp_path / "theirs.tar")))
    assert [rows[n].answers for n in range(3)] == [("0",), ("1",), ("2",)]
    assert rows[2].media() == [("image", b"picture")]


# Going on


@pytest.fixture
def many_lines(tmp_path, save_lines):
    folder = tmp_path / "many"
    folder.mkdir()
    rows = []
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(bytes([number]) * 3000)
        rows.append({"image": f"{number}.jpg", "caption": str(number) if number % 7 else ""})
    return save_lines(folder / "many.jsonl", rows)


def test_a_failure_leaves_no_half_shard(tmp_path, many_lines, monkeypatch):
    whole = tmp_path / "whole"
    pack(DatasetSpec(str(many_lines)), whole, shard_bytes=SMALL)
    out = tmp_path / "out"
    written = 0

    def full_disk(file, *args):
        nonlocal written
        written += 1
        if written > 24:
            raise OSError(28, "No space left on device")
        return real(file, *args)

    real = tarfile.TarFile.addfile
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full_disk)
        with pytest.raises(DataError, match=r"out/shard-\d+\.tar could not be written: No space"):
            pack(DatasetSpec(str(many_lines)), out, shard_bytes=SMALL)
    left = contents(out)
    assert not any("partial" in name for name in left)
    shards = [name for name in left if name.endswith(".tar")]
    assert shards
    assert all(left[name] == (whole / name).read_bytes() for name in shards)
    pack(DatasetSpec(str(many_lines)), out, shard_bytes=SMALL)
    assert contents(out) == contents(whole)


def test_a_killed_run_goes_on(tmp_path, many_lines):
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(DatasetSpec(str(many_lines)), whole, shard_bytes=SMALL)
    code = (
        "import sys, time, tarfile\n"
        "from pathlib import Path\n"
        "from video_llama.data.formats import DatasetSpec\n"
        "from video_llama.data.pack import pack\n"
        "real = tarfile.TarFile.addfile\n"
        "def slow(*args):\n    time.sleep(0.01)\n    return real(*args)\n"
        "tarfile.TarFile.addfile = slow\n"
        f"pack(DatasetSpec({str(many_lines)!r}), Path({str(out)!r}), shard_bytes={SMALL})\n"
    )
    # Killed while the third shard is half written.
    process = subprocess.Popen([sys.executable, "-c", code])
    half = out / ".shard-000002.tar.partial"
    deadline = time.monotonic() + 60
    while not half.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert half.exists()
    shards = [name for name in contents(out) if name.endswith(".tar")]
    assert shards == ["shard-000000.tar", "shard-000001.tar"]
    pack(DatasetSpec(str(many_lines)), out, shard_bytes=SMALL)
    assert contents(out) == contents(whole)


def test_what_went_missing_is_written_again(tmp_path, many_lines):
    whole, out = tmp_path / "whole", tmp_path / "out"
    for folder in (whole, out):
        pack(DatasetSpec(str(many_lines)), folder, shard_bytes=SMALL)
    (out / "shard-000003.tar").unlink()
    (out / "shard-000004.tar.idx").unlink()
    with (out / "skipped.jsonl").open("a") as file:
        file.write("a torn li")
    pack(DatasetSpec(str(many_lines)), out, shard_bytes=SMALL)
    assert contents(out) == contents(whole)


def test_a_finished_pack_is_left_alone(tmp_path, rich_lines, monkeypatch):
    pack(DatasetSpec(str(rich_lines)), tmp_path / "out", shard_bytes=SMALL)
    monkeypatch.setattr(packing, "_write_shard", None)
    assert pack(DatasetSpec(str(rich_lines)), tmp_path / "out", shard_bytes=SMALL).complete


def test_other_data_do_not_go_on(tmp_path, rich_lines, many_lines):
    out = tmp_path / "out"
    pack(DatasetSpec(str(rich_lines)), out, shard_bytes=SMALL)
    with pytest.raises(DataError, match="another shard_bytes: 20000, now 30000"):
        pack(DatasetSpec(str(rich_lines)), out, shard_bytes=30_000)
    with pytest.raises(DataError, match="another source"):
        pack(DatasetSpec(str(many_lines)), out, shard_bytes=SMALL)
    (out / "pack.json").write_text("{}")
    with pytest.raises(DataError, match="not one of a pack"):
        pack(DatasetSpec(str(rich_lines)), out, shard_bytes=SMALL)
    (out / "pack.json").unlink()
    with pytest.raises(DataError, match="holds shards from elsewhere"):
        pack(DatasetSpec(str(rich_lines)), out, shard_bytes=SMALL)


def test_a_source_that_changed_does_not_go_on(tmp_path, rich_lines):
    out, other = tmp_path / "out", tmp_path / "other"
    spec = DatasetSpec(str(rich_lines))
    pack(spec, out, shard_bytes=SMALL)
    other.mkdir()
    with pytest.raises(DataError, match=r"another source: its folder of media, .* was \. and is"):
        pack(DatasetSpec(str(rich_lines), media=str(other)), out, shard_bytes=SMALL)
    named = DatasetSpec(str(rich_lines), media=str(rich_lines.parent))
    assert pack(named, out, shard_bytes=SMALL).packed_before
    rich_lines.write_bytes(rich_lines.read_bytes().replace(b"a dog", b"a cow"))
    with pytest.raises(DataError, match=r"another source: its content \(sha256\)"):
        pack(spec, out, shard_bytes=SMALL)


def test_shards_that_changed_do_not_go_on(tmp_path, rich_lines):
    shards, out = tmp_path / "shards", tmp_path / "out"
    pack(DatasetSpec(str(rich_lines)), shards, shard_bytes=SMALL)
    pack(DatasetSpec(str(shards)), out, shard_bytes=SMALL)
    assert pack(DatasetSpec(str(shards)), out, shard_bytes=SMALL).packed_before
    first = shards / "shard-000000.tar"
    first.write_bytes(first.read_bytes().replace(b"a dog", b"a cow"))
    with pytest.raises(DataError, match="another source"):
        pack(DatasetSpec(str(shards)), out, shard_bytes=SMALL)


def test_an_older_manifest_goes_on(tmp_path, rich_lines):
    out = tmp_path / "out"
    pack(DatasetSpec(str(rich_lines)), out, shard_bytes=SMALL)
    before = contents(out)
    fields = json.loads(before["pack.json"])
    del fields["source"]["sha256"], fields["source"]["media"]
    (out / "pack.json").write_text(json.dumps(fields))
    (out / "shard-000000.tar").unlink()
    assert not pack(DatasetSpec(str(rich_lines)), out, shard_bytes=SMALL).packed_before
    assert contents(out)["shard-000000.tar"] == before["shard-000000.tar"]
    fields["source"]["rows"] = 99
    (out / "pack.json").write_text(json.dumps(fields))
    with pytest.raises(DataError, match="its rows was 99 and is 7 now"):
        pack(DatasetSpec(str(rich_lines)), out, shard_bytes=SMALL)


def test_half_a_character_is_skipped(tmp_path, rich_lines):
    with rich_lines.open("a") as file:
        file.write('{"image": "a.png", "caption": "a dog \\ud83d"}\n')
    manifest = pack(DatasetSpec(str(rich_lines)), tmp_path / "out")
    assert (manifest.source["rows"], manifest.samples) == (8, 4)
    assert "half a character" in (tmp_path / "out/skipped.jsonl").read_text().splitlines()[-1]


def test_what_training_refuses_is_not_packed(tmp_path, rich_lines):
    with rich_lines.open("a") as file:
        file.write(
            '{"messages": [{"role": "user", "content": "Hello?"}, '
            '{"role": "assistant", "content": "Hello."}]}\n'
        )
    manifest = pack(DatasetSpec(str(rich_lines)), tmp_path / "out")
    assert (manifest.source["rows"], manifest.samples) == (8, 4)
    assert "there is no medium" in (tmp_path / "out/skipped.jsonl").read_text().splitlines()[-1]


def test_one_pack_at_a_time_in_a_folder(tmp_path, rich_lines):
    out = tmp_path / "out"
    out.mkdir()
    spec = DatasetSpec(str(rich_lines))
    with alone(out), pytest.raises(DataError, match="another process is packing into"):
        pack(spec, out)
    assert pack(spec, out).complete


def test_nothing_to_pack(tmp_path, save_lines):
    path = save_lines(tmp_path / "bad.jsonl", [{"image": "nowhere.png", "caption": "x"}])
    with pytest.raises(DataError, match=r"no row of bad\.jsonl can be packed"):
        pack(DatasetSpec(str(path)), tmp_path / "out")
    assert "nowhere.png" in (tmp_path / "out/skipped.jsonl").read_text()


@pytest.mark.parametrize(
    ("source", "data", "suffix"),
    [
        (Path("a.JPEG"), b"", "jpeg"),
        (Path("a.bin"), b"\x89PNG\r\n", "png"),
        (b"", b"RIFF....WAVEfmt ", "wav"),
        (b"", b"....ftypisom", "mp4"),
        (b"", b"nothing known", "mp4"),
    ],
)
def test_suffixes(source, data, suffix):
    assert media_suffix("video", source, data) == suffix


# The command


def test_pack_command(run, tmp_path, rich_lines):
    status, out, err = run("data", "pack", rich_lines, "out", "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["out"] == "out"
    assert (told["samples"], told["skipped"], told["shards"]) == (4, 3, 1)
    assert told["packed_before"] is False
    status, out, _ = run("data", "pack", rich_lines, "out")
    assert status == 0
    assert out == (
        "out: 4 samples in 1 shards, 3 rows skipped\n"
        "packed before; skipped rows stay skipped; give another folder to pack anew\n"
    )
    status, out, _ = run("data", "pack", rich_lines, "anew")
    assert (status, out) == (0, "anew: 4 samples in 1 shards, 3 rows skipped\n")
    assert run("data", "check", "out")[0] == 0
    status, _, err = run("data", "pack", rich_lines, "out", "--shard-size", 5)
    assert status == 1
    assert "another shard_bytes" in err

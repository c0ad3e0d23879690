"""Features are made once, kept within bounds, and never come back damaged."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from video_llama.engine.features import FeatureCache, FeatureFiles, Features, Fingerprint

KEY, OTHER = "a" * 64, "b" * 64


def features(value: float, count: int = 4) -> Features:
    return Features({"video": torch.full((1, count), float(value))}, {"name": "x", "times": [0.5]})


def never() -> Features:
    raise AssertionError("it is there")


def same(one: Features, other: Features) -> bool:
    return one.facts == other.facts and torch.equal(one.tensors["video"], other.tensors["video"])


def test_made_once():
    cache = FeatureCache()
    assert same(cache.get(KEY, lambda: features(1)), features(1))
    assert same(cache.get(KEY, never), features(1))
    assert same(cache.get(OTHER, lambda: features(2)), features(2))
    assert (cache.hits, cache.misses) == (1, 2)
    cache.clear()
    assert same(cache.get(KEY, lambda: features(3)), features(3))


def test_what_was_used_last_stays():
    cache = FeatureCache(memory_bytes=40)  # two of 16 bytes
    for key in "abc":
        cache.get(key, lambda: features(0))
        cache.get("a", lambda: features(0))
    cache.get("a", never)
    cache.get("c", never)
    assert cache.nbytes == 32
    with pytest.raises(AssertionError):
        cache.get("b", never)
    assert cache.get("large", lambda: features(0, 100)).nbytes == 400
    assert cache.nbytes == 32


def test_who_comes_meanwhile_waits():
    cache = FeatureCache()
    begun, go = threading.Event(), threading.Event()
    made, got = [], []

    def slowly() -> Features:
        made.append(1)
        begun.set()
        go.wait(20)
        return features(5)

    threads = [
        threading.Thread(target=lambda: got.append(cache.get(KEY, slowly))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    begun.wait(20)
    assert same(cache.get(OTHER, lambda: features(1)), features(1))  # others do not wait
    go.set()
    for thread in threads:
        thread.join(20)
    assert len(made) == 1
    assert len(got) == 4
    assert all(same(one, features(5)) for one in got)


def test_an_error_is_raised_and_not_kept():
    cache = FeatureCache()

    def fail() -> Features:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        cache.get(KEY, fail)
    assert same(cache.get(KEY, lambda: features(1)), features(1))


def test_an_interrupt_is_only_for_who_was_interrupted():
    cache = FeatureCache()
    begun, go, got = threading.Event(), threading.Event(), []

    def interrupted() -> Features:
        begun.set()
        go.wait(20)
        raise KeyboardInterrupt

    def first() -> None:
        with pytest.raises(KeyboardInterrupt):
            cache.get(KEY, interrupted)

    def second() -> None:
        got.append(cache.get(KEY, lambda: features(3)))

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    time.sleep(0.05)
    go.set()
    for thread in threads:
        thread.join(20)
    assert same(got[0], features(3))
    assert cache.misses == 2


def test_files_outlive_a_process(tmp_path):
    cache = FeatureCache(files=FeatureFiles(tmp_path / "kept"))
    cache.get(KEY, lambda: features(1))
    again = FeatureCache(files=FeatureFiles(tmp_path / "kept"))
    assert same(again.get(KEY, never), features(1))
    assert (again.hits, again.misses) == (1, 0)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f"{KEY}.safetensors"]
    assert (tmp_path / "kept").stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "rubbish", "other facts"])
def test_a_damaged_file_counts_as_absent(tmp_path, damage):
    files = FeatureFiles(tmp_path)
    files.save(KEY, features(1))
    path = tmp_path / f"{KEY}.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-3] ^= 1
    if damage == "other facts":
        data = data.replace(b"0.5", b"0.6")
    path.write_bytes({"cut": data[:-4], "empty": b"", "rubbish": b"x" * 100}.get(damage, data))
    assert files.load(KEY) is None
    assert not path.exists()


def test_files_not_used_for_longest_go_first(tmp_path):
    files = FeatureFiles(tmp_path)
    files.save("first", features(1))
    size = (tmp_path / "first.safetensors").stat().st_size
    files = FeatureFiles(tmp_path, max_bytes=2 * size + size // 2)
    files.save("second", features(2))
    for place, name in enumerate(("first", "second")):
        os.utime(tmp_path / f"{name}.safetensors", (place, place))
    assert files.load("first") is not None  # used now
    files.save("third", features(3))
    assert files.load("second") is None
    assert files.load("first") is not None
    assert files.load("third") is not None
    files.save("large", features(0, 10_000))
    assert files.load("large") is None


def test_a_folder_that_is_gone_costs_no_answer(tmp_path):
    files = FeatureFiles(tmp_path / "kept")
    (tmp_path / "kept").rmdir()
    assert same(FeatureCache(files=files).get(KEY, lambda: features(1)), features(1))


def test_what_is_kept_is_found_and_nobody_is_waited_for(tmp_path):
    files = FeatureFiles(tmp_path)
    cache = FeatureCache(files=files)
    assert cache.find(KEY) is None
    files.save(KEY, features(1))
    for _ in range(2):
        found = cache.find(KEY)
        assert found is not None
        assert same(found, features(1))
    assert (cache.hits, cache.misses, cache.nbytes) == (2, 0, found.nbytes)


def test_a_folder_of_somebody_else_costs_no_answer(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    files = FeatureFiles(tmp_path)
    files.save(KEY, features(1))
    (tmp_path / f"{OTHER}.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    found = files.load(KEY)
    assert found is not None
    assert same(found, features(1))
    assert files.load(OTHER) is None


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    old, new = tmp_path / "old.part", tmp_path / "new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    FeatureFiles(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_fingerprint_is_that_of_the_values():
    torch.manual_seed(0)
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    digest = Fingerprint([one, None]).digest()
    assert digest != Fingerprint([other]).digest()
    other.load_state_dict(one.state_dict())
    assert digest == Fingerprint([other]).digest()
    assert digest != Fingerprint([one.to(torch.bfloat16)]).digest()


def test_a_fingerprint_sees_changes():
    layer = nn.Linear(3, 2)
    fingerprint = Fingerprint([layer])
    before = fingerprint.digest()
    assert fingerprint.digest() == before
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert fingerprint.digest() != before

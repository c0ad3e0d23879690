import json
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from video_llama.data.world.draw import render_frames
from video_llama.data.world.scene import Group, Scene
from video_llama.data.world.write import (
    SAMPLES,
    item_scene,
    write_samples,
    write_scene,
    write_world,
)
from video_llama.errors import OptionError

SMALL: dict[str, Any] = {"size": (64, 48), "fps": 8, "seconds": 1.0}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_clip_decodes_to_its_frames_and_sound(tmp_path):
    scene = Scene((Group("dog", "red", 1, "left"),), sound="dog", seconds=2.0, seed=1)
    path = write_scene(scene, tmp_path / "dog.mp4", size=(160, 120), fps=12)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.average_rate) == (160, 120, 12)
        assert (audio.rate, audio.channels) == (16_000, 1)
        assert container.duration / av.time_base == pytest.approx(2.0, abs=0.1)
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    drawn = render_frames(scene, (160, 120), num_frames=24)
    assert frames.shape == drawn.shape
    assert np.abs(frames.astype(int) - drawn).mean() < 6
    with av.open(str(path)) as container:
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert len(sound) / 16_000 == pytest.approx(2.0, abs=0.15)
    assert np.abs(sound).max() > 0.2


def test_a_silent_clip_has_no_sound_track(tmp_path):
    path = write_scene(
        Scene((Group("ball", "blue"),), seconds=0.5), tmp_path / "ball.mp4", size=(64, 64)
    )
    with av.open(str(path)) as container:
        assert not container.streams.audio


def test_world_is_listed_with_facts_and_questions(tmp_path):
    done = []
    listing = write_world(tmp_path / "new" / "world", 8, seed=3, progress=done.append, **SMALL)
    items = lines(listing)
    assert done == list(range(1, 9))
    assert [item["seed"] for item in items] == list(range(3, 11))
    assert {item["kind"] for item in items} == {"video", "image", "audio"}
    for item in items:
        scene = item_scene(item["seed"], seconds=1.0)
        assert item["facts"] == scene.facts()
        assert [q["kind"] for q in item["questions"]["en"]] == [
            q["kind"] for q in item["questions"]["zh"]
        ]
        path = listing.parent / item["file"]
        if item["kind"] == "image":
            with Image.open(path) as picture:
                assert picture.size == (64, 48)
        if item["kind"] == "audio":
            assert soundfile.info(path).samplerate == 16_000
            assert soundfile.info(path).duration == 1.0
    assert not list(listing.parent.glob(".*"))


def test_same_seed_same_bytes_and_a_broken_run_goes_on(tmp_path):
    first = write_world(tmp_path / "a", 6, **SMALL).parent
    second = write_world(tmp_path / "b", 3, **SMALL).parent
    kept = next(iter(second.glob("*0.*")))
    stamp = kept.stat().st_mtime_ns
    (second / ".video_0000004.mp4.partial").write_bytes(b"broken off")
    write_world(second, 6, **SMALL)
    assert kept.stat().st_mtime_ns == stamp
    names = sorted(p.name for p in first.iterdir())
    assert names == sorted(p.name for p in second.iterdir() if not p.name.startswith("."))
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_other_numbers_join_those_that_are_there(tmp_path):
    write_world(tmp_path, 2, 7, **SMALL)
    write_world(tmp_path, 1, 3, **SMALL)
    assert [item["seed"] for item in lines(write_world(tmp_path, 1, 8, **SMALL))] == [3, 7, 8]


def test_kinds_choose_what_is_written(tmp_path):
    items = lines(write_world(tmp_path, 3, kinds=["audio"], **SMALL))
    assert {item["kind"] for item in items} == {"audio"}


def test_bad_settings_and_folders_are_refused(tmp_path):
    write_world(tmp_path / "w", 1, **SMALL)
    with pytest.raises(OptionError, match="holds a world made with"):
        write_world(tmp_path / "w", 1, **SMALL | {"fps": 9})
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot write to"):
        write_world(tmp_path / "file", 1)
    wrongs: list[dict[str, Any]] = [
        {"count": 0},
        {"count": 1, "seed": -1},
        {"count": 1, "size": (63, 48)},
        {"count": 1, "size": (16, 16)},
        {"count": 1, "fps": 0},
        {"count": 1, "seconds": 0},
        {"count": 1, "kinds": ["film"]},
        {"count": 1, "kinds": []},
    ]
    for wrong in wrongs:
        with pytest.raises(OptionError):
            write_world(tmp_path / "x", **wrong)
    assert not (tmp_path / "x").exists()


def test_samples_are_small_and_of_every_kind(tmp_path):
    paths = write_samples(tmp_path)
    assert {path.name for path in paths} == set(SAMPLES)
    assert {path.suffix for path in paths} == {".mp4", ".png", ".wav"}
    assert max(path.stat().st_size for path in paths) < 60_000

"""The cache of frozen features: equal to training from pixels, and honest about damage."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from video_llama.checkpoints.load import load_model
from video_llama.data.medium import Medium, MediumRequest
from video_llama.errors import CorruptMediaError, MediaError, TrainingError
from video_llama.training import trainer
from video_llama.training.feature_files import Entry, SourceTable, write_shard
from video_llama.training.features import FeatureStore
from video_llama.training.trainer import train

# Encoding media in other company rounds in another way; Adam makes more of it.
LOSS_TOLERANCE = 1e-5


@pytest.fixture
def clips(tmp_path, write_clip):
    """Four small films with sound, and what is to be said of them."""
    folder = tmp_path / "clips"
    folder.mkdir()
    lines = []
    for number in range(4):
        write_clip(folder / f"{number}.mkv", seconds=1.5, tone=220.0 * (1 + number))
        lines.append({"video": f"{number}.mkv", "caption": f"tone number {number}"})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def cached(made, folder: Path, **changes):
    return replace(
        made,
        output=f"{made.output}-cached",
        cache=replace(made.cache, path=str(folder), batch=3, **changes),
    )


AUDIO = ["audio_branch.position_embedding.", "audio_branch.query_tokens", "audio_branch.qformer."]
KINDS = {
    "films": {"films": True},
    "films through ImageBind": {"films": True, "branch": "audio", "modules": AUDIO},
    "sounds": {"films": True, "branch": "audio", "modality": "audio", "modules": AUDIO},
}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_training_from_pixels(recipe, read_losses, clips, tmp_path, kind):
    changes = dict(KINDS[kind])
    if changes.pop("films", False):
        changes["data"] = [{"path": str(clips)}]
        changes["validation.data"] = [{"path": str(clips)}]
    made = recipe(**changes)
    train(made, io.StringIO())
    again = cached(made, tmp_path / "cache")
    out = io.StringIO()
    train(again, out)
    assert "the encoders are out of memory now" in out.getvalue()
    plain, kept = read_losses(made.output), read_losses(again.output)
    assert kept == pytest.approx(plain, abs=LOSS_TOLERANCE)
    one, two = (
        load_file(Path(place) / "checkpoints/step-00000004/trained.safetensors")
        for place in (made.output, again.output)
    )
    for name, tensor in one.items():
        assert float((tensor - two[name]).abs().max()) < 1e-4, name


def test_the_encoders_are_gone_and_media_are_not_read_twice(
    recipe, pictures, tmp_path, monkeypatch
):
    made = cached(recipe(), tmp_path / "cache")
    seen = []
    keep = trainer.Run.train

    def look(run):
        branch = run.model.vision_branch
        seen.append([len(list(m.parameters())) for m in (branch.vision_encoder, branch.qformer)])
        return keep(run)

    monkeypatch.setattr(trainer.Run, "train", look)
    train(made, io.StringIO())
    assert seen == [[0, 0]]
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetens*")}
    assert shards

    def never(*_, **__):
        raise AssertionError("a medium was read again")

    monkeypatch.setattr("video_llama.training.fill.read_medium", never)
    monkeypatch.setattr("video_llama.data.dataset.read_medium", never)
    train(replace(made, output=str(tmp_path / "second")), io.StringIO())
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetens*")}
    assert after == shards


def test_the_cached_run_can_be_broken_off(recipe, tmp_path):
    made = cached(recipe(), tmp_path / "cache")
    train(made, io.StringIO())
    path = Path(made.output) / "checkpoints/step-00000002"
    out = io.StringIO()
    train(replace(made, output=str(tmp_path / "again"), resume=str(path)), out)
    assert "going on from step 2" in out.getvalue()
    last = "checkpoints/step-00000004/trained.safetensors"
    assert (tmp_path / "again" / last).read_bytes() == (Path(made.output) / last).read_bytes()


def test_half_precision_takes_half_and_is_near(recipe, read_losses, tmp_path):
    made = recipe()
    train(made, io.StringIO())
    for dtype, kept in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        folder = tmp_path / dtype
        half = replace(cached(made, folder, dtype=dtype), output=f"{folder}-run")
        train(half, io.StringIO())
        assert read_losses(half.output) == pytest.approx(read_losses(made.output), rel=0.02)
        values = [value for p in folder.rglob("shard-*") for value in load_file(p).values()]
        assert {value.dtype for value in values} == {kept}


def test_random_frames_come_from_a_stated_number_of_draws(recipe, read_losses, clips, tmp_path):
    made = recipe(
        **{"data": [{"path": str(clips)}], "media.sampling": "head_tail", "media.num_frames": 2}
    )
    runs = []
    for number in (1, 2):
        again = replace(
            cached(made, tmp_path / str(number), draws=3), output=f"{tmp_path}/{number}r"
        )
        train(again, io.StringIO())
        runs.append(read_losses(again.output))
    assert runs[0] == runs[1]
    keys = [key for path in (tmp_path / "1").rglob("shard-*") for key in load_file(path)]
    per_clip = dict.fromkeys({key.split("/")[0] for key in keys}, 0)
    for key in keys:
        per_clip[key.split("/")[0]] += 1
    assert len(per_clip) == 4
    assert max(per_clip.values()) == 3


def test_a_bad_medium_is_rejected_as_from_pixels(recipe, pictures, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(pictures.parent, folder)
    (folder / "3.png").write_bytes(b"no picture")
    (folder / "5.png").unlink()
    (folder / "6.png").write_bytes(b"no picture")  # the same page instead of a picture, say
    lines = (folder / "rows.jsonl").read_text().replace("7.png", f"{'7' * 300}.png")
    (folder / "rows.jsonl").write_text(lines)
    changes = {"data": [{"path": str(folder / "rows.jsonl")}], "schedule.steps_per_epoch": 3}
    made = recipe(**changes)
    train(made, io.StringIO())
    again = cached(made, tmp_path / "cache")
    train(again, io.StringIO())
    plain, kept = (
        (Path(place) / "quarantine.jsonl").read_text() for place in (made.output, again.output)
    )
    assert plain == kept
    for name in ("3.png", "5.png", "6.png", f"{'7' * 300}.png"):
        assert name in plain


def test_a_damaged_shard_is_told_and_computed_again(recipe, read_losses, tmp_path):
    made = cached(recipe(), tmp_path / "cache")
    train(made, io.StringIO())
    (shard,) = (tmp_path / "cache").rglob("shard-*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    out = io.StringIO()
    second = replace(made, output=str(tmp_path / "second"))
    train(second, out)
    assert f"warning: {shard.name} of the cache is damaged" in out.getvalue()
    assert "its values are computed again" in out.getvalue()
    assert read_losses(second.output) == read_losses(made.output)
    assert shard.with_name(f"{shard.name}.damaged").exists()


def test_damage_that_is_not_looked_for_stops_the_run(recipe, tmp_path):
    made = cached(recipe(), tmp_path / "cache", verify=False)
    train(made, io.StringIO())
    (shard,) = (tmp_path / "cache").rglob("shard-*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    for workers in (0, 1):
        second = replace(made, output=str(tmp_path / f"second{workers}"), workers=workers)
        with pytest.raises(TrainingError) as told:
            train(second, io.StringIO())
        assert str(told.value).startswith(f"{shard.name} of the cache is damaged: a value has")
        assert "\n" not in str(told.value)


def test_processes_share_the_work(recipe, ranks, quiet_model_dir, read_losses, tmp_path):
    made = recipe(**{"model.path": str(quiet_model_dir)})
    train(made, io.StringIO())
    again = cached(made, tmp_path / "cache")

    def run():
        return train(again, io.StringIO()).step

    for process in ranks(run, 2):
        assert process.end() == ("gave", 4)
    assert read_losses(again.output) == pytest.approx(read_losses(made.output), abs=LOSS_TOLERANCE)
    shards = list((tmp_path / "cache").rglob("shard-*.safetensors"))
    assert len(shards) == 2
    keys = [key for path in shards for key in load_file(path)]
    assert len(keys) == len(set(keys)) == 12


@pytest.mark.parametrize(("matters", "folders"), [(True, 2), (False, 1)])
def test_weights_that_matter_have_a_folder_of_their_own(
    recipe, save_tiny_model, tmp_path, matters, folders
):
    for number in range(2):
        base = save_tiny_model(tmp_path / f"model{number}")
        model = load_model(base, device="cpu")
        with torch.no_grad():
            branch = model.vision_branch
            changed = branch.qformer.layernorm if matters else branch.projector
            changed.bias.add_(0.1 * number)
        model.save_pretrained(base)
        made = recipe(**{"model.path": str(base), "schedule.steps_per_epoch": 1})
        output = str(tmp_path / f"run{number}")
        train(replace(cached(made, tmp_path / "cache"), output=output), io.StringIO())
    assert len(list((tmp_path / "cache").iterdir())) == folders


def value(key: str, fill: float = 1.0) -> Entry:
    return Entry(key, Medium("image", torch.full((1, 2, 3), fill)))


def request(source, **changes) -> MediumRequest:
    return MediumRequest(source, "frames", 4, **changes)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store", "vision", {"weights": "x"}, draws=4)


def test_a_value_comes_back_as_it_was_given(store):
    key = store.key(request(b"some bytes"))
    medium = Medium("video", torch.randn(4, 2, 3), (0.0, 0.25, 0.5, 0.75))
    write_shard(store.folder, [Entry(key, medium), value("other")])
    assert key not in store
    assert store.refresh() == []
    assert key in store
    assert len(store) == 2
    found = store.look_up(request(b"some bytes"))
    assert (found.kind, found.times) == (medium.kind, medium.times)
    assert torch.equal(found.values, medium.values)


def test_what_is_not_there_is_told(store, tmp_path):
    path = tmp_path / "dog.mp4"
    path.write_bytes(b"a")
    with pytest.raises(TrainingError, match=r"dog.mp4 is not in the cache"):
        store.look_up(request(path))
    store.failures[str(path)] = ("CorruptMediaError", "dog.mp4 is damaged")
    with pytest.raises(CorruptMediaError, match=r"dog.mp4 is damaged"):
        store.look_up(request(path))
    store.failures[str(path)] = ("SomeOtherError", "dog.mp4 is odd")
    with pytest.raises(MediaError, match=r"dog.mp4 is odd"):
        store.look_up(request(path))


def test_a_file_that_changed_is_another_medium(store, tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(b"first")
    key = store.key(request(path))
    path.write_bytes(b"second")
    assert store.key(request(path)) != key
    other = tmp_path / "copy.png"
    other.write_bytes(b"first")
    assert store.key(request(other)) == key


def test_keys_tell_apart_what_differs(store):
    ask = request(b"x")
    keys = {
        store.key(one)
        for one in (
            ask,
            replace(ask, num_frames=8),
            replace(ask, side="sound"),
            replace(ask, source=b"y"),
            replace(ask, sampling="head_tail", chance=5),
            replace(ask, sampling="head_tail", chance=6),
        )
    }
    assert len(keys) == 6
    # Five draws on is the same of four draws.
    drawn = replace(ask, sampling="head_tail", chance=5)
    assert store.key(drawn) == store.key(replace(drawn, chance=9))
    assert store.key(replace(ask, chance=1)) == store.key(ask)


def test_half_written_shards_are_not_there(store):
    write_shard(store.folder, [value("a")])
    (whole,) = store.folder.glob("shard-*")
    (store.folder / ".writing-shard-x.safetensors").write_bytes(whole.read_bytes()[:100])
    (store.folder / "shard-cut.safetensors").write_bytes(whole.read_bytes()[:-4])
    told = store.refresh()
    assert len(told) == 1
    assert "shard-cut.safetensors of the cache is damaged" in told[0]
    assert len(store) == 1
    assert store.refresh() == []


def test_a_list_of_files_that_is_damaged_only_costs_time(tmp_path):
    (tmp_path / "sources-1.json").write_text('{"a 1 2": "digest')
    (tmp_path / "sources-2.json").write_text(json.dumps({f"{tmp_path}/b 1 2": "digest"}))
    table = SourceTable.read(tmp_path)
    assert table.find(tmp_path / "nothing") is None
    assert not (tmp_path / "sources-1.json").exists()

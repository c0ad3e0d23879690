"""What conversion writes, and how."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from video_llama.checkpoints import convert as module
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.load import load_model, load_processor
from video_llama.checkpoints.readers import open_tensors
from video_llama.checkpoints.sources import PublishedFiles
from video_llama.checkpoints.verify import verify
from video_llama.checkpoints.writer import model_files
from video_llama.errors import CheckpointError, OptionError

LM = "llama/model.safetensors"


def test_everything_is_written(run, tmp_path):
    report = run()
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "conversion.json",
        "processor_config.json",
        "tokenizer.json",
    } <= names
    config = json.loads((tmp_path / "ours" / "config.json").read_text(encoding="utf-8"))
    assert not config["text_config"].get("_name_or_path")  # a place on the machine it was made on
    written = json.loads((tmp_path / "ours" / "conversion.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(report.to_dict()))
    assert len(written["sources"]) == 6
    assert all(len(source["sha256"]) == 64 for source in written["sources"])
    assert "/" not in "".join(source["name"] for source in written["sources"])
    assert not list(tmp_path.glob(".*partial*"))


def test_processor_fits_the_model(run, tmp_path):
    run(template="llama_2")
    model = load_model(tmp_path / "ours", device="cpu")
    processor = load_processor(tmp_path / "ours")
    assert processor.template == "llama_2"
    assert processor.sound_channels == "first"
    assert processor.image_size == model.config.vision_config.image_size
    assert processor.video_token_id == model.config.video_token_id


def test_shards_hold_the_same_tensors(run, published, tmp_path, overrides):
    run()
    convert(
        published.folder,
        tmp_path / "shards",
        template="vicuna",
        overrides=overrides,
        max_shard_bytes=50_000,
    )
    files = model_files(tmp_path / "shards")
    assert len(set(files.values())) > 3
    whole = open_tensors(tmp_path / "ours" / "model.safetensors")
    assert set(files) == set(whole.tensors)
    for name, path in files.items():
        assert torch.equal(open_tensors(path).read(name), whole.read(name))
    assert verify(tmp_path / "shards", deep=True).passed
    load_model(tmp_path / "shards", device="cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_dtype(run, tmp_path, name, dtype):
    run(dtype=name)
    infos = open_tensors(tmp_path / "ours" / "model.safetensors").tensors
    assert {info.dtype for info in infos.values()} == {dtype}
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == str(dtype)[6:]


def test_kept_dtypes_may_differ_between_files(run, published, tmp_path):
    def halve(tensors):
        for name, tensor in tensors.items():
            tensors[name] = tensor.half() if tensor.is_floating_point() else tensor

    published.change("eva_vit_g.pth", halve)
    run()
    files = model_files(tmp_path / "ours")
    infos = {name: open_tensors(path).tensors[name] for name, path in files.items()}
    half = {name for name, info in infos.items() if info.dtype == torch.float16}
    assert all(name.startswith("vision_branch.vision_encoder.") for name in half)
    assert len(half) > 10
    assert load_model(tmp_path / "ours", device="cpu").dtype == torch.float32


def test_language_model_in_pickled_shards(run, published, tmp_path):
    run()
    tensors = open_tensors(published.folder / LM)
    names = sorted(tensors.tensors)
    parts = {"a.bin": names[::2], "b.bin": names[1::2]}
    for file, keys in parts.items():
        torch.save(
            {key: tensors.read(key).clone() for key in keys}, published.folder / "llama" / file
        )
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    published.change_json("llama/pytorch_model.bin.index.json", weight_map=weight_map)
    (published.folder / LM).unlink()
    run(overwrite=True)
    assert verify(tmp_path / "ours", deep=True).passed
    (published.folder / "llama" / "b.bin").unlink()
    with pytest.raises(CheckpointError, match=r"incomplete: b\.bin"):
        run(overwrite=True)


def test_old_pickles_that_are_no_archives(run, published):
    path = published.folder / "eva_vit_g.pth"
    content = torch.load(path, weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    run()


def test_files_given_one_by_one(published, tmp_path, overrides):
    folder = published.folder
    files = PublishedFiles(
        eva=folder / "eva_vit_g.pth",
        blip2=folder / "blip2_pretrained_flant5xxl.pth",
        imagebind=folder / "imagebind_huge.pth",
        language_model=folder / "llama",
        video_branch=folder / "VL_branch.pth",
        audio_branch=folder / "AL_branch.pth",
    )
    convert(None, tmp_path / "one", files=files, template="vicuna", overrides=overrides)
    missing = replace(files, eva=None)
    with pytest.raises(CheckpointError, match="--eva"):
        convert(None, tmp_path / "two", files=missing, template="vicuna", overrides=overrides)


def test_names_do_not_matter(run, published, tmp_path):
    for number, path in enumerate(sorted(published.folder.glob("*.pth"))):
        path.rename(path.with_name(f"{number}.pth"))
    (published.folder / "llama").rename(published.folder / "lm")
    run()
    assert verify(tmp_path / "ours").passed


def test_both_branches_in_one_file(run, published, tmp_path):
    audio = torch.load(published.folder / "AL_branch.pth", weights_only=True)["model"]
    published.change("VL_branch.pth", lambda tensors: tensors.update(audio))
    (published.folder / "AL_branch.pth").unlink()
    report = run()
    assert len(report.sources) == 5
    assert verify(tmp_path / "ours").has_audio_branch


def test_without_audio(run, published, tmp_path):
    (published.folder / "AL_branch.pth").unlink()
    (published.folder / "imagebind_huge.pth").unlink()
    report = run(audio=False)
    assert not report.audio_branch
    model = load_model(tmp_path / "ours", device="cpu")
    assert model.audio_branch is None
    assert load_processor(tmp_path / "ours").num_audio_tokens == 0
    assert verify(tmp_path / "ours").passed


def test_projection_of_minigpt4_is_read_before_the_branch(run, published, tmp_path):
    branch = torch.load(published.folder / "VL_branch.pth", weights_only=True)["model"]
    projection = {key: branch[key] + 1 for key in ("llama_proj.weight", "llama_proj.bias")}
    torch.save({"model": projection}, published.folder / "pretrained_minigpt4.pth")
    run()
    read = open_tensors(tmp_path / "ours" / "model.safetensors").read
    assert torch.equal(read("vision_branch.projector.bias"), branch["llama_proj.bias"])
    published.change("VL_branch.pth", lambda tensors: [tensors.pop(key) for key in projection])
    run(overwrite=True)
    read = open_tensors(tmp_path / "ours" / "model.safetensors").read
    assert torch.equal(read("vision_branch.projector.bias"), projection["llama_proj.bias"])


SMALL = {
    f"{branch}_qformer_config.{name}": size
    for branch in ("video", "audio")
    for name, size in (("hidden_size", 24), ("intermediate_size", 32), ("num_attention_heads", 2))
}


def test_new_branches_are_those_that_training_begins_with(run, published, tmp_path, overrides):
    for name in ("VL_branch.pth", "AL_branch.pth"):
        (published.folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"--audio-branch, .*or --new-branches to train them"):
        run(overrides={**overrides, **SMALL})
    report = run(new_branches=True, overrides={**overrides, **SMALL})
    assert [one.split(" (")[0] for one in report.warnings] == [
        "the vision-language branch is new",
        "the audio-language branch is new",
    ]
    assert [one.name for one in report.sources][-2:] == [
        "new_video_branch.safetensors",
        "new_audio_branch.safetensors",
    ]
    assert verify(tmp_path / "ours").passed
    model = load_model(tmp_path / "ours", device="cpu")
    branch = model.vision_branch
    assert len(branch.video_qformer.encoder.layer) == 2
    assert branch.video_query_tokens.shape == (1, 32, 24)
    assert branch.video_query_tokens.std().item() == pytest.approx(0.02, rel=0.1)
    assert branch.frame_position_embedding.weight.std().item() == pytest.approx(1.0, rel=0.1)
    weight = branch.projector.weight
    assert weight.abs().max().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)
    assert model.audio_branch.query_tokens.shape == (1, 8, 24)
    first = (tmp_path / "ours/model.safetensors").read_bytes()
    run(new_branches=True, overrides={**overrides, **SMALL}, overwrite=True)
    assert (tmp_path / "ours/model.safetensors").read_bytes() == first


def test_a_branch_that_is_there_is_not_new(run, published, tmp_path, overrides):
    (published.folder / "AL_branch.pth").unlink()
    small = {name: size for name, size in SMALL.items() if name.startswith("audio")}
    report = run(new_branches=True, overrides={**overrides, **small})
    assert report.warnings == ["the audio-language branch is new"]
    branch = torch.load(published.folder / "VL_branch.pth", weights_only=True)["model"]
    read = open_tensors(tmp_path / "ours" / "model.safetensors").read
    assert torch.equal(read("vision_branch.projector.bias"), branch["llama_proj.bias"])


def test_a_new_branch_takes_the_projection_that_is_there(run, published, tmp_path, overrides):
    branch = torch.load(published.folder / "VL_branch.pth", weights_only=True)["model"]
    width = branch["llama_proj.bias"].shape[0]
    projection = {"llama_proj.weight": torch.ones(width, 24), "llama_proj.bias": torch.ones(width)}
    torch.save({"model": projection}, published.folder / "pretrained_minigpt4.pth")
    (published.folder / "VL_branch.pth").unlink()
    run(new_branches=True, audio=False, overrides={**overrides, **SMALL})
    model = load_model(tmp_path / "ours", device="cpu")
    assert torch.equal(model.vision_branch.projector.weight, projection["llama_proj.weight"])


def test_another_picture_size_resizes_the_position_table(run, tmp_path, overrides):
    run(overrides={**overrides, "vision_config.image_size": 56})
    model = load_model(tmp_path / "ours", device="cpu")
    with torch.no_grad():
        assert torch.isfinite(model.get_video_features(torch.randn(1, 2, 3, 56, 56))).all()
    assert load_processor(tmp_path / "ours").image_size == 56


def test_tied_language_model(run, published, tmp_path):
    published.change(LM, lambda tensors: tensors.pop("lm_head.weight"))
    published.change_json("llama/config.json", tie_word_embeddings=True)
    run()
    assert verify(tmp_path / "ours").passed
    model = load_model(tmp_path / "ours", device="cpu")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_taken_place(run, tmp_path):
    run()
    with pytest.raises(CheckpointError, match="--overwrite"):
        run()
    run(overwrite=True)
    shutil.rmtree(tmp_path / "ours")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="only those"):
        run(overwrite=True)
    assert (tmp_path / "ours" / "thesis.txt").exists()


@pytest.mark.parametrize("stranger", ["notes.txt", "published"])
def test_what_no_conversion_wrote_is_not_replaced(run, published, tmp_path, stranger):
    run()
    path = tmp_path / "ours" / stranger
    if stranger == "published":
        shutil.copytree(published.folder, path)
    else:
        path.write_text("years of work")
    with pytest.raises(CheckpointError, match=f"holds {stranger}, which no conversion wrote"):
        run(overwrite=True)
    assert path.exists()
    assert (tmp_path / "ours" / "model.safetensors").exists()


def test_an_empty_folder_is_filled_and_not_replaced(run, tmp_path, monkeypatch):
    """It may be a disk of its own, a link, or where one stands."""
    (tmp_path / "ours").mkdir()
    number = (tmp_path / "ours").stat().st_ino
    run()
    assert (tmp_path / "ours").stat().st_ino == number
    run(overwrite=True, dtype="fp16")
    assert (tmp_path / "ours").stat().st_ino == number
    assert verify(tmp_path / "ours", deep=True).passed
    shutil.move(tmp_path / "ours", tmp_path / "real")
    (tmp_path / "ours").symlink_to(tmp_path / "real")
    run(overwrite=True)
    assert (tmp_path / "ours").is_symlink()
    assert verify(tmp_path / "real", deep=True).passed
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()
    assert not list((tmp_path / "real").glob(".*"))


def test_an_empty_folder_where_one_stands(published, tmp_path, overrides, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(published.folder, ".", template="vicuna", overrides=overrides)
    assert verify(tmp_path / "here").passed


@pytest.mark.parametrize("there", [False, True])
def test_what_a_killed_conversion_left_is_removed(run, tmp_path, there):
    left = tmp_path / ("ours/.partial-abc" if there else ".ours.partial-abc")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    run()
    assert not left.exists()
    assert verify(tmp_path / "ours").passed


@pytest.mark.parametrize(
    "setting",
    [
        {"vision_config.num_attention_heads": 7},
        {"qformer_config.num_attention_heads": 0},
        {"vision_config.num_hidden_layers": "4"},
        {"vision_config": 3},
    ],
)
def test_settings_that_do_not_fit_are_told(run, overrides, tmp_path, setting):
    with pytest.raises((OptionError, CheckpointError), match=r"do not (fit|go together)"):
        run(overrides={**overrides, **setting})
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("text", ["oops", "[]"])
def test_a_generation_config_that_is_none(run, published, text):
    (published.folder / "llama" / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json of the language model"):
        run()


def test_nothing_half_written(run, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("the disk broke")

    run(dtype="fp16")
    monkeypatch.setattr(module, "write_model", fail)
    with pytest.raises(OSError, match="the disk broke"):
        run(overwrite=True)
    assert verify(tmp_path / "ours").passed  # what was there before
    assert not list(tmp_path.glob(".*"))


def test_full_disk(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="are free"):
        run()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int3"},
        {"template": "chatml"},
        {"overrides": {"vision_config.number_of_heads": 2}},
        {"overrides": {"eva.num_heads": 2}},
    ],
)
def test_bad_options(run, options):
    with pytest.raises(OptionError):
        run(**options)

"""What `verify` says of directories, whole and broken."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from video_llama.checkpoints.load import choose_device, load_model, load_processor
from video_llama.checkpoints.part import PART_FILE, TRAINED_FILE, Part, fingerprint
from video_llama.checkpoints.readers import open_tensors
from video_llama.checkpoints.verify import verify
from video_llama.checkpoints.writer import write_model
from video_llama.errors import CheckpointError, OptionError

WEIGHTS = "model.safetensors"


def failures(report):
    return {check.name: check.detail for check in report.checks if not check.passed}


def rewrite(directory, edit):
    """Change the tensors of a directory of ours."""
    opened = open_tensors(directory / WEIGHTS)
    tensors = {name: opened.read(name).clone() for name in opened.tensors}
    edit(tensors)
    infos = {
        n: opened.tensors.get(n) or opened.tensors["vision_branch.projector.bias"] for n in tensors
    }
    write_model(directory, infos, tensors.__getitem__)


def set_json(path, **fields):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **fields}), encoding="utf-8")


def test_a_whole_model(ours):
    report = verify(ours, deep=True)
    assert report.passed
    assert report.kind == "model"
    assert report.parameters == sum(p.numel() for p in load_model(ours).state_dict().values())
    assert report.sizes["vocabulary"] == 480
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("vision_config", "num_attention_heads", 7),
        ("vision_config", "num_attention_heads", 0),
        ("vision_config", "hidden_size", "x"),
        (None, "max_frames", "32"),
        (None, "vision_config", 3),
    ],
)
def test_settings_that_do_not_go_together(ours, section, field, value):
    """Told by what loads a model, and by what is to say where."""
    path = ours / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    (content if section is None else content[section])[field] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    assert {"configuration", "keys and shapes"} & set(failures(verify(ours)))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(ours)


@pytest.mark.parametrize("content", ["[]", '{"template": "nosuch"}'])
def test_a_processor_that_is_none(ours, content):
    (ours / "processor_config.json").write_text(content)
    assert "processor" in failures(verify(ours))
    with pytest.raises(CheckpointError, match="no processor that can be read"):
        load_processor(ours)


def test_a_published_set_with_a_broken_tokenizer_is_reported(published):
    (published.folder / "llama" / "tokenizer_config.json").write_text("{")
    assert failures(verify(published.folder))


def test_the_folder_of_a_run_is_told_from_published_files(ours, tmp_path):
    shutil.copytree(ours, tmp_path / "run" / "model")
    (tmp_path / "run" / "step-1.safetensors").write_bytes(b"")
    report = verify(tmp_path / "run")
    assert not report.passed
    assert "its model is" in str(report.checks[0])


def test_devices_that_compute_nothing(ours):
    for device in (None, "nosuch"):
        with pytest.raises(OptionError, match="device"):
            choose_device(device)
    with pytest.raises(OptionError, match="meta computes nothing"):
        load_model(ours, device="meta")


def test_a_published_set(published):
    report = verify(published.folder)
    assert report.passed
    assert report.kind == "published"
    assert set(report.parts) == {
        "eva",
        "blip2",
        "imagebind",
        "language_model",
        "video_branch",
        "audio_branch",
    }
    assert report.template is None


def test_a_published_set_of_two_sizes(published):
    for part in ("weight", "bias"):
        key = f"llama_proj.{part}"
        published.change(
            "VL_branch.pth", lambda t, key=key: t.update({key: torch.zeros(40, *t[key].shape[1:])})
        )
    assert "do not belong together" in failures(verify(published.folder))["widths"]


def test_a_published_set_that_lacks_a_part(published):
    (published.folder / "eva_vit_g.pth").unlink()
    report = verify(published.folder)
    assert "--eva" in failures(report)["parts"]
    assert "video_branch" in report.parts


@pytest.mark.parametrize("file", ["imagebind_huge.pth", "AL_branch.pth"])
def test_half_of_what_hears_is_a_failure_as_it_is_for_convert(published, file):
    (published.folder / file).unlink()
    report = verify(published.folder)
    assert "--no-audio" in failures(report)["parts"]
    assert report.has_audio_branch is False


def make_part(ours, directory, **changes):
    """A part of the model in `ours` that holds its trained projector."""
    shutil.copytree(ours, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    name = "vision_branch.projector.bias"
    trained = {name: open_tensors(ours / WEIGHTS).read(name).clone() + 1, **changes}
    save_file(trained, directory / TRAINED_FILE)
    (directory / PART_FILE).write_text(Part(str(ours), fingerprint(ours)).to_json())
    return directory


def test_a_part_is_verified_with_its_model(ours, tmp_path):
    directory = make_part(ours, tmp_path / "part")
    report = verify(directory, deep=True)
    assert report.passed, report.checks
    assert {"part", "model it belongs to", "keys and shapes", "finite values"} <= {
        check.name for check in report.checks
    }
    rewrite(ours, lambda tensors: tensors["vision_branch.projector.weight"].add_(1.0))
    assert "other weights" in failures(verify(directory))["model it belongs to"]


def test_what_has_no_place_in_a_parts_model_is_told(ours, tmp_path):
    directory = make_part(ours, tmp_path / "part", another=torch.zeros(3))
    assert "no place for 'another'" in failures(verify(directory))["keys and shapes"]


def test_a_published_set_with_a_broken_file(published):
    (published.folder / "VL_branch.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "LFS" in failures(verify(published.folder))["files"]


def test_anything_else(tmp_path):
    report = verify(tmp_path)
    assert report.kind == "unknown"
    assert not report.passed
    torch.save({"x": torch.ones(1)}, tmp_path / "x.pth")
    assert verify(tmp_path).kind == "unknown"
    with pytest.raises(CheckpointError, match="no such directory"):
        verify(tmp_path / "nowhere")


def test_missing_and_unknown_keys(ours):
    def edit(tensors):
        tensors["stranger"] = tensors.pop("vision_branch.projector.bias")

    rewrite(ours, edit)
    detail = failures(verify(ours))["keys and shapes"]
    assert "1 missing (vision_branch.projector.bias)" in detail
    assert "1 unknown (stranger)" in detail
    with pytest.raises(CheckpointError, match="verify"):
        load_model(ours)


def test_another_shape(ours):
    config = json.loads((ours / "config.json").read_text(encoding="utf-8"))
    set_json(ours / "config.json", num_query_tokens=config["num_query_tokens"] + 1)
    detail = failures(verify(ours))["keys and shapes"]
    assert "1 of another shape (vision_branch.query_tokens)" in detail
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(ours)


def test_values_that_are_not_finite(ours):
    rewrite(ours, lambda tensors: tensors["vision_branch.projector.bias"].fill_(torch.nan))
    assert verify(ours).passed
    assert "projector.bias" in failures(verify(ours, deep=True))["finite values"]


def test_weights_cut_short(ours):
    content = (ours / WEIGHTS).read_bytes()
    (ours / WEIGHTS).write_bytes(content[:-1000])
    assert "cut short" in failures(verify(ours))["weight files"]
    with pytest.raises(CheckpointError, match="cut short"):
        load_model(ours)


def test_no_weights(ours):
    (ours / WEIGHTS).unlink()
    assert "no such file" in failures(verify(ours))["weight files"]
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(ours)


def test_a_missing_shard(ours):
    index = {"weight_map": {"vision_branch.projector.bias": "model-00001-of-00002.safetensors"}}
    (ours / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "model-00001" in failures(verify(ours))["weight files"]
    (ours / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    assert "index" in failures(verify(ours))["weight files"]


def test_a_broken_configuration(ours):
    (ours / "config.json").write_text("{", encoding="utf-8")
    assert "cannot be read" in failures(verify(ours))["configuration"]
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_model(ours)


def test_no_processor(ours):
    (ours / "processor_config.json").unlink()
    (ours / "tokenizer.json").unlink()
    (ours / "tokenizer.model").unlink()
    assert "processor" in failures(verify(ours))
    with pytest.raises(CheckpointError, match="no processor"):
        load_processor(ours)


def test_no_processor_config(ours):
    (ours / "processor_config.json").unlink()  # the rest would be read with defaults
    assert "no processor_config.json" in failures(verify(ours))["processor"]
    with pytest.raises(CheckpointError, match=r"no processor_config\.json"):
        load_processor(ours)


def test_the_folder_of_a_run_is_told_from_its_model(ours, tmp_path):
    ours.rename(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"its model is .*/model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "field", ["video_token_id", "audio_token_id", "image_size", "num_video_tokens", "target_length"]
)
def test_a_processor_of_another_model(ours, field):
    set_json(ours / "processor_config.json", **{field: 7})
    assert f"{field} 7" in failures(verify(ours))["processor's sizes"]


def test_a_tokenizer_beyond_the_table(ours):
    path = ours / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    special = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"].append({"id": 480, "content": "[PAD]", **special})
    path.write_text(json.dumps(content), encoding="utf-8")
    assert "481 tokens" in failures(verify(ours))["tokenizer"]


def test_loading_what_is_no_model_of_ours(published, tmp_path):
    with pytest.raises(CheckpointError, match="video-llama convert"):
        load_model(published.folder)
    with pytest.raises(CheckpointError, match="of type 'llama'"):
        load_model(published.folder / "llama")
    with pytest.raises(CheckpointError, match="no such directory"):
        load_model(tmp_path / "nowhere")


def test_devices_and_types(ours):
    with pytest.raises(OptionError, match="not there"):
        load_model(ours, device="cuda:99")
    with pytest.raises(OptionError, match="not there"):
        load_model(ours, device="toaster")
    with pytest.raises(OptionError, match="no dtype"):
        load_model(ours, dtype="fp8")
    assert load_model(ours, device="cpu", dtype=torch.float16).dtype == torch.float16
    set_json(ours / "config.json", dtype="float16")
    assert load_model(ours, device="cpu").dtype == torch.float32  # half precision on a CPU


def test_a_loaded_model_is_in_evaluation_mode(ours):
    assert not any(module.training for module in load_model(ours, device="cpu").modules())
    shutil.rmtree(ours)

"""What has no published form is not converted back."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from video_llama.checkpoints.back import to_published_files
from video_llama.checkpoints.part import PART_FILE, Part
from video_llama.checkpoints.readers import TensorInfo, open_tensors
from video_llama.checkpoints.writer import split_into_shards, write_model
from video_llama.cli import main
from video_llama.errors import CheckpointError, OptionError


def rewrite(directory, edit):
    opened = open_tensors(directory / "model.safetensors")
    tensors = {name: opened.read(name).clone() for name in opened.tensors}
    edit(tensors)
    write_model(directory, opened.tensors, tensors.__getitem__)


def test_a_bias_on_the_keys(ours, tmp_path):
    name = "vision_branch.vision_encoder.encoder.layers.0.self_attn.qkv.bias"
    rewrite(ours, lambda tensors: tensors[name].fill_(1.0))
    with pytest.raises(CheckpointError, match="bias on the keys"):
        to_published_files(ours, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_features_of_another_scale(run, overrides, tmp_path):
    unit = {**overrides, "imagebind_config.feature_scaling": "unit"}
    run(overrides=unit)
    with pytest.raises(CheckpointError, match="feature_scaling is 'unit'"):
        to_published_files(tmp_path / "ours", tmp_path / "back")
    centred = {**overrides, "imagebind_config.feature_scaling": "centered"}
    with pytest.raises(OptionError, match=r"the settings ask for 'audio_branch\.imagebind"):
        run(overrides=centred, overwrite=True)


def test_a_taken_place_and_no_model(ours, tmp_path, published):
    with pytest.raises(CheckpointError, match="exists already"):
        to_published_files(ours, ours)
    part = tmp_path / "part"
    shutil.copytree(ours, part)
    (part / PART_FILE).write_text(Part("../base", "x").to_json(), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"part of another model.*export\.kind=model"):
        to_published_files(part, tmp_path / "back")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        to_published_files(published.folder, tmp_path / "back")


@pytest.mark.parametrize(
    "option", ["--overwrite", "--no-audio", "--dtype=bf16", "--set=a=1", "--eva=eva.pth"]
)
def test_options_of_converting_are_refused(option, capsys):
    with pytest.raises(SystemExit) as status:
        main(["convert", "--back", "model", "published", option])
    assert status.value.code == 2
    assert f"{option.partition('=')[0]} does nothing" in " ".join(capsys.readouterr().err.split())


def test_shards_of_a_model(ours):
    infos = open_tensors(ours / "model.safetensors").tensors
    for limit in (1, 10_000, 10**9):
        shards = split_into_shards(infos, limit)
        assert [name for shard in shards for name in shard] == list(infos)
        for shard in shards:
            size = sum(infos[name].num_bytes for name in shard)
            assert size <= limit or len(shard) == 1


def test_written_files_are_read_by_safetensors(tmp_path):
    tensors = {
        "scalar": torch.tensor(2.5),
        "matrix": torch.randn(3, 5),
        "transposed": torch.randn(4, 2).T,
        "half": torch.randn(7).half(),
        "brain": torch.randn(3, 1).bfloat16(),
        "empty": torch.zeros(0, 4),
    }
    infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    write_model(tmp_path, infos, tensors.__getitem__)
    read = {}
    for path in tmp_path.glob("*.safetensors"):
        read |= load_file(path)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype

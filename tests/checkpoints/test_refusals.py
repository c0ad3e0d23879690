"""Files that do not belong together, or are not what they seem: refused, with the reason."""

import pickle

import pytest
import torch

from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.sources import PublishedFiles
from video_llama.errors import CheckpointError

LM = "llama/model.safetensors"


def widen(key, rows):
    def edit(tensors):
        old = tensors[key]
        tensors[key] = torch.zeros(rows, *old.shape[1:])

    return edit


def test_branch_of_another_size(run, published):
    for name in ("weight", "bias"):
        published.change("VL_branch.pth", widen(f"llama_proj.{name}", 40))
    with pytest.raises(CheckpointError, match=r"vision branch writes .* 40 and .* reads 32"):
        run()


def test_audio_branch_of_another_size(run, published):
    for name in ("weight", "bias"):
        published.change("AL_branch.pth", widen(f"audio_llama_proj.{name}", 40))
    with pytest.raises(CheckpointError, match="audio branch writes"):
        run()


def test_the_message_names_7b_and_13b(run, published):
    for name in ("weight", "bias"):
        published.change("VL_branch.pth", widen(f"llama_proj.{name}", 5120))
    with pytest.raises(CheckpointError, match=r"5120 \(13B\)"):
        run()


def test_unmerged_delta(run, published):
    def subtract(tensors):
        torch.manual_seed(0)
        for key, tensor in tensors.items():
            tensors[key] = torch.randn_like(tensor) * 0.01

    published.change(LM, subtract)
    with pytest.raises(CheckpointError, match=r"delta weights.*apply_delta"):
        run()


def test_delta_of_equal_norms(run, published):
    published.change(LM, lambda t: t.update({"model.norm.weight": t["model.norm.weight"] * 0}))
    with pytest.raises(CheckpointError, match="delta"):
        run()


def test_scattered_norms_are_no_delta(run, published):
    def scatter(tensors):
        torch.manual_seed(0)
        norm = tensors["model.norm.weight"]
        tensors["model.norm.weight"] = 1 + 0.6 * torch.randn_like(norm)

    published.change(LM, scatter)
    run()


def test_one_token_too_many(run, published):
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        published.change(LM, lambda t, key=key: t.update({key: torch.cat([t[key], t[key][:1]])}))
    published.change_json("llama/config.json", vocab_size=481)
    with pytest.raises(CheckpointError, match=r"vocabulary of 481.*480 of the original"):
        run()


def test_configuration_and_weights_of_different_vocabularies(run, published):
    published.change_json("llama/config.json", vocab_size=400)
    with pytest.raises(CheckpointError, match="400 and the weights have 480"):
        run()


@pytest.mark.parametrize(
    ("file", "option"),
    [
        ("VL_branch.pth", "--video-branch"),
        ("AL_branch.pth", "--audio-branch"),
        ("eva_vit_g.pth", "--eva"),
        ("blip2_pretrained_flant5xxl.pth", "--blip2"),
        ("imagebind_huge.pth", "--imagebind"),
    ],
)
def test_missing_part(run, published, file, option):
    (published.folder / file).unlink()
    with pytest.raises(CheckpointError, match=option) as caught:
        run()
    assert ("--no-audio" in str(caught.value)) == (option in ("--audio-branch", "--imagebind"))


def test_a_part_twice(run, published):
    (published.folder / "finetuned.pth").write_bytes(
        (published.folder / "VL_branch.pth").read_bytes()
    )
    with pytest.raises(CheckpointError, match=r"more than once \(VL_branch.pth, finetuned.pth\)"):
        run()
    run(files=PublishedFiles(video_branch=published.folder / "VL_branch.pth"))


def test_a_branch_given_as_the_other(run, published):
    files = PublishedFiles(audio_branch=published.folder / "VL_branch.pth")
    with pytest.raises(CheckpointError, match=r"given with --audio-branch, holds the vision-lang"):
        run(files=files)


def test_a_language_model_that_is_no_directory_of_one(run, published):
    files = PublishedFiles(language_model=published.folder / "llama" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        run(files=files)


@pytest.mark.parametrize("file", ["VL_branch.pth", "eva_vit_g.pth", LM])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_file_cut_short(run, published, file, share):
    path = published.folder / file
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=rf"{path.name} cannot be read: it is cut short"):
        run()


def test_garbage(run, published):
    (published.folder / "VL_branch.pth").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(CheckpointError, match=r"VL_branch\.pth cannot be read"):
        run()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    ],
)
@pytest.mark.parametrize("file", ["VL_branch.pth", LM])
def test_what_is_saved_in_place_of_weights(run, published, file, content, message):
    (published.folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        run()


class Runs:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code(run, published, capsys, zipped):
    path = published.folder / "VL_branch.pth"
    torch.save({"model": {"x": Runs()}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"VL_branch\.pth holds more than tensors.*run code"):
        run()
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle(run, published):
    (published.folder / "VL_branch.pth").write_bytes(pickle.dumps({"model": [1, 2, 3]}))
    with pytest.raises(CheckpointError, match=r"VL_branch\.pth"):
        run()


def test_a_value_that_is_no_tensor(run, published):
    published.change("VL_branch.pth", lambda tensors: tensors.update({"note": "hello"}))
    with pytest.raises(CheckpointError, match="'note' is of type str"):
        run()


def test_unknown_trainer_state(run, published):
    path = published.folder / "VL_branch.pth"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "ema": {}}, path)
    with pytest.raises(CheckpointError, match="'ema' beside 'model'"):
        run()


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("VL_branch.pth", "video_Qformer.bert.pooler.weight"),
        ("eva_vit_g.pth", "blocks.0.attn.relative_position_bias_table"),
        ("imagebind_huge.pth", "modality_trunks.video.blocks.0.norm_1.weight"),
        (LM, "model.layers.0.self_attn.q_proj.lora_A.weight"),
        (LM, "model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_every_other_key_is_an_error_that_names_it(run, published, file, key):
    published.change(file, lambda tensors: tensors.update({key: torch.ones(3)}))
    with pytest.raises(CheckpointError, match=key):
        run()


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("VL_branch.pth", "video_frame_position_embedding.weight"),
        ("VL_branch.pth", "video_Qformer.bert.encoder.layer.1.output_query.dense.bias"),
        ("eva_vit_g.pth", "blocks.0.attn.v_bias"),
        ("eva_vit_g.pth", "blocks.1.attn.qkv.weight"),
        ("blip2_pretrained_flant5xxl.pth", "ln_vision.bias"),
        ("imagebind_huge.pth", "modality_heads.audio.2.weight"),
        (LM, "model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_a_missing_key_is_named(run, published, file, key):
    published.change(file, lambda tensors: tensors.pop(key))
    with pytest.raises(CheckpointError, match=key):
        run()


def test_a_vision_file_of_another_width(run, published):
    key = "ln_vision.weight"
    published.change("blip2_pretrained_flant5xxl.pth", widen(key, 20))
    with pytest.raises(CheckpointError, match=rf"'{key}' of blip2.* \[20\].*ask for \[16\]"):
        run()


def test_heads_are_not_guessed(run, overrides):
    with pytest.raises(CheckpointError, match=r"--set video_qformer_config\.num_attention_heads="):
        run(overrides={"vision_config.num_hidden_layers": 2})
    without_depth = {k: v for k, v in overrides.items() if "num_hidden_layers" not in k}
    with pytest.raises(CheckpointError, match=r"--set vision_config\.num_hidden_layers=NUMBER"):
        run(overrides=without_depth)


def test_more_blocks_asked_for_than_there_are(run, overrides):
    with pytest.raises(CheckpointError, match="3 blocks; 9 are needed"):
        run(overrides={**overrides, "vision_config.num_hidden_layers": 9})


def test_another_mel_grid(run, overrides):
    with pytest.raises(CheckpointError, match="228 patches"):
        run(overrides={**overrides, "imagebind_config.audio_mel_frames": 304})


def test_no_tokenizer(run, published):
    for path in (published.folder / "llama").glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no tokenizer that can be read"):
        run()


def test_language_model_of_unknown_type(run, published):
    published.change_json("llama/config.json", model_type="mystery")
    with pytest.raises(CheckpointError, match="no configuration of a language model"):
        run()


def test_no_such_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such directory"):
        convert(tmp_path / "nowhere", tmp_path / "ours")


def test_a_converted_model_is_not_converted_again(converted, tmp_path):
    with pytest.raises(CheckpointError, match="not in tiny"):
        convert(converted, tmp_path / "ours")

"""Video-LLaMA 1 and 2: which template, and parts of both."""

import pytest
import torch
from transformers import LlamaConfig

from video_llama.checkpoints.styles import choose_style, collect_evidence, style_of_name
from video_llama.errors import CheckpointError

LLAMA_1 = LlamaConfig(rms_norm_eps=1e-6, max_position_embeddings=2048)
LLAMA_2 = LlamaConfig(rms_norm_eps=1e-5, max_position_embeddings=4096)


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("VL_LLaMA_2_7B_Finetuned.pth", "llama_2"),
        ("AL_LLaMA_2_13B_Pretrained.pth", "llama_2"),
        ("llama-2-7b-chat-hf", "llama_2"),
        ("finetune-vicuna7b-v2.pth", "vicuna"),
        ("finetune_vicuna7b_audiobranch.pth", "vicuna"),
        ("finetune-billa7b-zh.pth", None),
        ("vicuna-from-llama-2", None),
        ("VL_branch.pth", None),
    ],
)
def test_names(name, style):
    assert style_of_name(name) == style


def gather(tmp_path, config, branch, extras=None, folder="lm"):
    directory = tmp_path / folder
    directory.mkdir(exist_ok=True)
    return collect_evidence(directory, config, {tmp_path / branch: extras or {}})


def test_published_names_decide(tmp_path):
    evidence = gather(tmp_path, LLAMA_2, "VL_LLaMA_2_7B_Finetuned.pth", folder="llama-2-7b-chat-hf")
    assert choose_style(None, evidence) == ("llama_2", [])
    evidence = gather(tmp_path, LLAMA_1, "finetune-vicuna7b-v2.pth", folder="vicuna-7b")
    assert choose_style(None, evidence) == ("vicuna", [])


def test_sizes_alone_are_no_proof(tmp_path):
    for config in (LLAMA_1, LLAMA_2):
        with pytest.raises(CheckpointError, match="--template vicuna"):
            choose_style(None, gather(tmp_path, config, "branch.pth"))


def test_what_speaks_against_a_given_template_is_a_warning(tmp_path):
    evidence = gather(tmp_path, LLAMA_2, "branch.pth")
    style, warnings = choose_style("vicuna", evidence)
    assert style == "vicuna"
    assert "LLaMA-2" in warnings[0]


@pytest.mark.parametrize("given", [None, "vicuna", "llama_2"])
def test_parts_of_both_are_refused(tmp_path, given):
    evidence = gather(tmp_path, LLAMA_2, "finetune-vicuna7b-v2.pth", folder="Llama-2-7b-chat-hf")
    with pytest.raises(CheckpointError, match="different models"):
        choose_style(given, evidence)


def test_a_given_template_cannot_contradict(tmp_path):
    evidence = gather(tmp_path, LLAMA_2, "VL_LLaMA_2_7B_Finetuned.pth")
    with pytest.raises(CheckpointError, match="contradicts the name VL_LLaMA_2"):
        choose_style("vicuna", evidence)


def test_settings_of_the_trainer(tmp_path):
    for end, style in (("###", "vicuna"), ("</s>", "llama_2")):
        extras = {"config": {"model": {"llama_model": "/data/ckpt/lm/", "end_sym": end}}}
        assert choose_style(None, gather(tmp_path, LLAMA_1, "b.pth", extras))[0] == style
    extras = {"config": {"model": {"llama_model": "/data/vicuna-7b/"}}}
    assert choose_style(None, gather(tmp_path, LLAMA_1, "b.pth", extras))[0] == "vicuna"


def test_chat_template_of_the_language_model(tmp_path):
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "tokenizer_config.json").write_text('{"chat_template": "[INST] {{ x }}"}')
    assert choose_style(None, gather(tmp_path, LLAMA_2, "b.pth"))[0] == "llama_2"


def test_conversion_asks_and_warns(run, published):
    with pytest.raises(CheckpointError, match="--template"):
        run(template=None)
    assert run().warnings == []
    assert "LLaMA-1" in run(template="llama_2", overwrite=True).warnings[0]


def test_conversion_reads_the_settings_of_the_trainer(run, published):
    path = published.folder / "VL_branch.pth"
    content = torch.load(path, weights_only=True)
    content["config"] = {"model": {"end_sym": "</s>"}}
    torch.save(content, path)
    assert run(template=None).template == "llama_2"


def test_a_combined_directory_of_video_llama_2(run, published, tmp_path):
    """As on the hub: names tell the template, the encoders come from elsewhere."""
    folder = published.folder
    (folder / "VL_branch.pth").rename(folder / "VL_LLaMA_2_7B_Finetuned.pth")
    (folder / "AL_branch.pth").rename(folder / "AL_LLaMA_2_7B_Finetuned.pth")
    (folder / "llama").rename(folder / "llama-2-7b-chat-hf")
    assert run(template=None).template == "llama_2"
    for name in ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"):
        (folder / name).rename(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"eva_vit_g.*\n.*--eva, --blip2"):
        run(template=None, overwrite=True)

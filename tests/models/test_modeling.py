"""The whole model: media into the prompt, batches, cached features, generation."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

from video_llama.errors import OptionError
from video_llama.models import VideoLlamaConfig, VideoLlamaForConditionalGeneration

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def left_padded(prompts):
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def rows(media, index):
    return {name: tensor[index : index + 1] for name, tensor in media.items()}


def settings(config):
    """A configuration without what saving and loading notes in it."""
    noted = ("dtype", "_name_or_path", "architectures", "transformers_version")
    return {
        name: settings(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in noted
    }


def test_generate_takes_settings_as_transformers_does(model, media, prompt):
    settings = GenerationConfig(max_new_tokens=3, do_sample=False)
    ids = torch.tensor([prompt(5, 6)])
    said = model.generate(ids, settings, **rows(media, 0))
    assert torch.equal(said, model.generate(ids, max_new_tokens=3, **rows(media, 0)))
    embedded = model.get_input_embeddings()(torch.tensor([[1, 2, 3]]))
    with pytest.raises(ValueError, match="is given with inputs_embeds"):
        model.generate(inputs_embeds=embedded, **rows(media, 0))


def test_saved_and_loaded_model_is_the_same(model, media, prompt, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = VideoLlamaForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert settings(loaded.config.to_dict()) == settings(model.config.to_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    inputs = {"input_ids": torch.tensor([prompt(5, 6), prompt(8, 9)]), **media}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


@pytest.mark.parametrize("on_disk", ["vision_branch", "audio_branch", "language_model"])
def test_parts_may_lie_on_the_disk(model, media, prompt, tmp_path, on_disk):
    model.save_pretrained(tmp_path / "model")
    places = dict.fromkeys(("vision_branch", "audio_branch", "language_model"), "cpu")
    loaded = VideoLlamaForConditionalGeneration.from_pretrained(
        tmp_path / "model",
        device_map={**places, on_disk: "disk"},
        offload_folder=tmp_path / "offloaded",
    ).eval()
    inputs = {"input_ids": torch.tensor([prompt(5, 6), prompt(8, 9)]), **media}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_a_branch_may_be_of_another_type(tiny_model, media, prompt):
    model = tiny_model()
    model.audio_branch.to(torch.bfloat16)
    inputs = {"input_ids": torch.tensor([prompt(5, 6), prompt(8, 9)]), **media}
    with torch.no_grad():
        assert model(**inputs).logits.dtype == torch.float32


def test_the_vocabulary_stays_as_it_is(tiny_model):
    model = tiny_model()
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with pytest.raises(OptionError, match="not resized"):
        model.resize_token_embeddings(300)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == before


def test_one_configuration_may_be_given_for_several_parts(tiny_config):
    shared = tiny_config().qformer_config
    width = shared.encoder_hidden_size
    config = tiny_config(
        qformer_config=shared, video_qformer_config=shared, audio_qformer_config=shared
    )
    assert config.qformer_config.encoder_hidden_size == config.vision_config.hidden_size
    assert config.audio_qformer_config.encoder_hidden_size == config.imagebind_config.embedding_size
    assert shared.encoder_hidden_size == width


def test_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), VideoLlamaConfig)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(loaded, VideoLlamaForConditionalGeneration)


def test_full_size_on_the_meta_device():
    with torch.device("meta"):
        model = VideoLlamaForConditionalGeneration(VideoLlamaConfig())
    counts = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in (
            ("language_model", model.language_model),
            ("audio_branch", model.audio_branch),
            ("encoder", model.vision_branch.vision_encoder.encoder),
        )
    }
    assert counts["language_model"] == 6_738_415_616
    assert 980e6 < counts["encoder"] < 990e6
    trained = (
        model.vision_branch.video_query_tokens,
        *model.vision_branch.video_qformer.parameters(),
        *model.vision_branch.projector.parameters(),
        *model.vision_branch.frame_position_embedding.parameters(),
    )
    assert sum(p.numel() for p in trained) == 22_104_064  # as the published branch files have


def test_bf16_stays_near_fp32(tiny_model, media, prompt):
    exact, half = tiny_model(), tiny_model().to(torch.bfloat16)
    inputs = {"input_ids": torch.tensor([prompt(5, 6), prompt(8, 9)]), **media}
    with torch.no_grad():
        expected, actual = exact(**inputs).logits, half(**inputs).logits
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).abs().max() < 0.15 * expected.abs().max()


def test_batch_is_each_alone(model, media, prompt):
    prompts = [prompt(5), prompt(8, 9, 10, 11)]
    batch = left_padded(prompts)
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        together = model(**batch, **media, position_ids=positions).logits
        for index, ids in enumerate(prompts):
            alone = model(input_ids=torch.tensor([ids]), **rows(media, index)).logits
            torch.testing.assert_close(together[index, -len(ids) :], alone[0], **CLOSE)


def test_generated_batch_is_each_alone(model, media, prompt):
    prompts = [prompt(5), prompt(8, 9, 10, 11)]
    together = model.generate(**left_padded(prompts), **media, max_new_tokens=6, do_sample=False)
    for index, ids in enumerate(prompts):
        alone = model.generate(
            input_ids=torch.tensor([ids]), **rows(media, index), max_new_tokens=6, do_sample=False
        )
        new = alone[0, len(ids) :].tolist()
        assert together[index, together.shape[1] - 6 :].tolist()[: len(new)] == new


def test_generate_returns_the_prompt_and_what_is_new(model, media, prompt):
    ids = torch.tensor([prompt(5, 6)])
    inputs = {"input_ids": ids, **rows(media, 0)}
    result = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert result.shape == (1, ids.shape[1] + 4)
    assert torch.equal(result[:, : ids.shape[1]], ids)
    assert result[:, ids.shape[1] :].max() < model.config.text_config.vocab_size
    as_dict = model.generate(
        **inputs,
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
        return_dict_in_generate=True,
    )
    assert torch.equal(as_dict.sequences, result)


def test_generated_tokens_are_the_greedy_ones_of_forward(model, media, prompt):
    inputs = rows(media, 0)
    ids = torch.tensor([prompt(5, 6)])
    result = model.generate(input_ids=ids, **inputs, max_new_tokens=5, do_sample=False)
    for end in range(ids.shape[1], result.shape[1]):
        with torch.no_grad():
            logits = model(input_ids=result[:, :end], **inputs).logits
        assert logits[0, -1].argmax() == result[0, end]


def test_beams_repeat_the_prompt(model, media, prompt):
    ids = torch.tensor([prompt(5, 6)])
    result = model.generate(
        input_ids=ids,
        **rows(media, 0),
        max_new_tokens=3,
        num_beams=2,
        num_return_sequences=2,
        do_sample=False,
    )
    assert torch.equal(result[:, : ids.shape[1]], ids.expand(2, -1))


def test_text_alone(model):
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=ids).logits, model.language_model(input_ids=ids).logits
        )


def test_cached_features_are_pixels(model, media, prompt):
    ids = torch.tensor([prompt(5, 6), prompt(8, 9)])
    with torch.no_grad():
        features = {
            "video_features": model.get_video_features(media["pixel_values_videos"]),
            "audio_features": model.get_audio_features(media["input_features"]),
        }
        assert torch.equal(
            model(input_ids=ids, **media).logits, model(input_ids=ids, **features).logits
        )
    generated = model.generate(input_ids=ids, **media, max_new_tokens=4, do_sample=False)
    cached = model.generate(input_ids=ids, **features, max_new_tokens=4, do_sample=False)
    assert torch.equal(generated, cached)


def test_a_picture_is_a_video_of_one_frame(model, media):
    config = model.config
    picture = {"pixel_values_videos": media["pixel_values_videos"][:1, :1]}
    logits = []
    for placeholder in (config.image_token_id, config.video_token_id):
        ids = torch.tensor([[1, *[placeholder] * config.num_video_query_tokens, 5]])
        with torch.no_grad():
            logits.append(model(input_ids=ids, **picture).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize(("kind", "word"), [("video", "video and picture"), ("audio", "audio")])
def test_counts_that_differ_are_named(model, media, kind, word):
    token = getattr(model.config, f"{kind}_token_id")
    per_medium = getattr(model.config, f"num_{kind}_query_tokens")
    name = "pixel_values_videos" if kind == "video" else "input_features"
    ids = torch.tensor([[1, *[token] * (per_medium - 1), 5]])
    with pytest.raises(ValueError, match=f"{per_medium - 1} {word} placeholders.*{per_medium}"):
        model(input_ids=ids, **{name: media[name][:1]})
    with pytest.raises(ValueError, match=f"{per_medium - 1} {word} placeholders.* 0 "):
        model(input_ids=ids)


def test_without_an_audio_branch(tiny_model, media):
    model = tiny_model(has_audio_branch=False)
    assert not any(name.startswith("audio_branch") for name in model.state_dict())
    with pytest.raises(ValueError, match="no audio branch"):
        model.get_audio_features(media["input_features"])


def test_tied_embeddings_are_written_once(tiny_config, tmp_path):
    text = {**tiny_config().text_config.to_dict(), "tie_word_embeddings": True}
    model = VideoLlamaForConditionalGeneration(tiny_config(text_config=text))
    table = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is table
    model.save_pretrained(tmp_path)
    loaded = VideoLlamaForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.get_input_embeddings().weight, table)


def test_importing_models_loads_no_media_library():
    code = (
        "import sys, video_llama.models; "
        "print([m for m in ('av', 'ray', 'fastapi', 'gradio') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"

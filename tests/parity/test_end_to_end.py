"""Media and prompt to greedy tokens, against four conversations of the original."""

import json
import os
from pathlib import Path

import pytest
import torch

KIT = Path(os.environ.get("VIDEO_LLAMA_PARITY_DIR", Path(__file__).parent / "kit"))
SCENARIOS = json.loads((KIT / "end_to_end.json").read_text(encoding="utf-8"))["scenarios"]


@pytest.fixture(scope="module")
def tensors(kit):
    return kit.tensors("end_to_end")


def media_inputs(scenario, tensors):
    """The recorded media a scenario uses, as the model takes them."""
    inputs = {}
    if "video" in scenario["media_order"]:
        inputs["pixel_values_videos"] = tensors["in.video"].transpose(0, 1)[None]
    if "image" in scenario["media_order"]:
        inputs["pixel_values_videos"] = tensors["in.image"][None, None]
    if "audio" in scenario["media_order"]:
        inputs["input_features"] = tensors["in.mel"]
    return inputs


def prompt_ids(scenario, config):
    """The recorded ids of the segments, with runs of placeholders between them."""
    runs = {
        "video": [config.video_token_id] * config.num_video_query_tokens,
        "image": [config.image_token_id] * config.num_video_query_tokens,
        "audio": [config.audio_token_id] * config.num_audio_query_tokens,
    }
    ids = []
    for number, segment in enumerate(scenario["segment_token_ids"]):
        ids += segment
        if number < len(scenario["media_order"]):
            ids += runs[scenario["media_order"][number]]
    return torch.tensor([ids])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_scenario(model, compare, tensors, scenario):
    name = scenario["name"]
    recorded = {n: t for n, t in tensors.items() if n.startswith(f"{name}.out.")}
    media, ids = media_inputs(scenario, tensors), prompt_ids(scenario, model.config)
    assert ids.shape[1] == scenario["prompt_length"]
    steps = len(scenario["greedy_tokens"])
    computed = {}
    with torch.no_grad():
        if "pixel_values_videos" in media:
            features = model.get_video_features(media["pixel_values_videos"])
            computed["video_tokens"] = computed["image_tokens"] = features
        if "input_features" in media:
            computed["audio_tokens"] = model.get_audio_features(media["input_features"])
        computed["inputs_embeds"] = model.embed(ids, **media)
        logits = model(input_ids=ids, **media).logits
        result = model.generate(
            input_ids=ids,
            **media,
            max_new_tokens=steps,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    computed["prompt_logits_last4"] = logits[:, -4:]
    computed["prompt_argmax"] = logits.argmax(dim=-1)
    computed["greedy_step_logits"] = torch.cat(result.logits)
    new_ids = result.sequences[0, ids.shape[1] :]
    assert new_ids.tolist() == scenario["greedy_tokens"]
    # The original's output begins with an artificial BOS: it generated from embeddings alone.
    assert scenario["generate_output_has_leading_bos"]
    bos = torch.tensor([model.config.text_config.bos_token_id])
    computed["greedy_sequence"] = torch.cat([bos, new_ids])
    compare(recorded, {f"{name}.out.{short}": tensor for short, tensor in computed.items()})


def test_answers_end_where_the_original_ends_them(model):
    """The chat's answer is the greedy tokens up to the end token, and all of them without one."""
    end = model.config.text_config.eos_token_id
    for scenario in SCENARIOS:
        tokens = scenario["greedy_tokens"]
        answer = tokens[: tokens.index(end)] if end in tokens else tokens
        assert answer == scenario["chat_answer_tokens"]


def test_every_tensor_of_the_file_is_used(tensors):
    names = {scenario["name"] for scenario in SCENARIOS}
    assert {n.split(".")[0] for n in tensors} == {"in", *names}
    assert {n for n in tensors if n.startswith("in.")} == {"in.video", "in.image", "in.mel"}

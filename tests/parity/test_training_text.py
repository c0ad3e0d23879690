"""Training texts, token ids and loss masks against those of the original.

The original's Vicuna masks drift: the role marks they skip are counted in another tokenisation, so
parts of questions are learnt and parts of answers are not. Ours cover exactly the answers and their
end marks. Its LLaMA-2 masks are right, and ours equal them.
"""

import re

import pytest
import torch

from video_llama.processing.captions import (
    CAPTION_PROMPTS,
    STAGE1_END,
    STAGE1_MAX_TOKENS,
    caption_segments,
    clean_caption,
    prompted_caption_segments,
)
from video_llama.processing.conversation import parse_conversation
from video_llama.processing.segments import Media, Text, segments_to_text
from video_llama.processing.templates import get_template
from video_llama.processing.tokenizer import load_tokenizer
from video_llama.processing.tokens import (
    IGNORE_INDEX,
    Placeholder,
    pad_prompts,
    pad_token_id,
    tokenize_segments,
)

TEMPLATE_NAMES = {"vicuna": "vicuna", "llama_v2": "llama_2"}


@pytest.fixture(scope="module")
def facts(kit):
    return kit.json("training_text")


@pytest.fixture(scope="module")
def tokenizer(kit):
    return load_tokenizer(kit.path("tokenizer"))


@pytest.fixture(scope="module")
def placeholders(facts):
    run = Placeholder(facts["image_token_id_dataset_tokenizer"], facts["num_video_query_token"])
    return {"image": run, "video": run}


def conversation_of(row, facts):
    """A recorded sample in our form."""
    turns = []
    if row["kind"] == "image":
        roles = {"human": "user", "gpt": "assistant"}
        for turn in row["source"]:
            texts = turn["value"].split("<image>")
            parts = [{"type": "text", "text": texts[0]}]
            for text in texts[1:]:
                parts += [{"type": "image"}, {"type": "text", "text": text}]
            content = parts if turn["from"] == "human" else turn["value"]
            turns.append({"role": roles[turn["from"]], "content": content})
        return turns
    video = {"type": "video", "sound": False}
    if row["kind"] == "video":  # the other kind has no sentence about times
        stamps = re.search(r"sampled at (.*) seconds", facts["timestamp_message"]).group(1)
        video["times"] = [float(time) for time in stamps.split(", ")]
    for number, pair in enumerate(row["source"]):
        text = {"type": "text", "text": pair["q"]}
        turns.append({"role": "user", "content": [text] if number else [video, text]})
        turns.append({"role": "assistant", "content": pair["a"]})
    return turns


def rendered(row, facts):
    template = get_template(TEMPLATE_NAMES[row["style"]])
    messages = parse_conversation(conversation_of(row, facts))
    return template.render(messages, layout="training")


def test_texts(facts):
    for row in facts["instruct"]:
        run = "<ImageHere>" * facts["num_video_query_token"]
        text = re.sub(r"<(image|video)>", run, segments_to_text(rendered(row, facts)))
        assert text == row["text"], (row["name"], row["style"])


def test_token_ids(facts, tokenizer, placeholders):
    for row in facts["instruct"]:
        prompt = tokenize_segments(
            rendered(row, facts), tokenizer, placeholders, facts["max_length"]
        )
        assert prompt.input_ids == row["input_ids"], (row["name"], row["style"])


def test_labels_of_llama_2_are_the_recorded_ones(facts, tokenizer, placeholders):
    for row in facts["instruct"]:
        if row["style"] == "llama_v2":
            segments = rendered(row, facts)
            prompt = tokenize_segments(segments, tokenizer, placeholders, facts["max_length"])
            assert prompt.labels == row["labels"], row["name"]
            assert sum(label != IGNORE_INDEX for label in prompt.labels) == row["n_supervised"]


def learnt_runs(prompt):
    """The unbroken runs of supervised ids."""
    runs, before = [], IGNORE_INDEX
    for label in prompt.labels:
        if label != IGNORE_INDEX:
            if before == IGNORE_INDEX:
                runs.append([])
            runs[-1].append(label)
        before = label
    return runs


def answers_of(row):
    if row["kind"] == "image":
        return [turn["value"] for turn in row["source"] if turn["from"] == "gpt"]
    return [pair["a"] for pair in row["source"]]


def test_labels_of_vicuna_are_the_answers_and_not_the_recorded_ones(facts, tokenizer, placeholders):
    for row in facts["instruct"]:
        if row["style"] != "vicuna":
            continue
        segments = rendered(row, facts)
        prompt = tokenize_segments(segments, tokenizer, placeholders, facts["max_length"])
        texts = [tokenizer.decode(run) for run in learnt_runs(prompt)]
        expected = [f"{answer}\n###" for answer in answers_of(row)]
        if len(row["input_ids"]) < facts["max_length"]:
            assert texts == expected
        else:
            assert len(texts) == 1
            assert expected[0].startswith(texts[0])
        assert prompt.labels != row["labels"], "the recorded mask has drifted"
        assert "Human" in row["supervised_text"], "it teaches the user's turns"


def test_batch_of_two(facts, tokenizer, placeholders):
    recorded = facts["collate_two"]
    rows = {row["name"]: row for row in facts["instruct"] if row["style"] == "vicuna"}
    prompts = [
        tokenize_segments(rendered(rows[name], facts), tokenizer, placeholders)
        for name in recorded["inputs"]
    ]
    assert pad_token_id(tokenizer) == facts["pad_id"]
    batch = pad_prompts(prompts, facts["pad_id"], "right")
    assert batch["input_ids"].tolist() == recorded["input_ids"]
    assert batch["attention_mask"].tolist() == recorded["attention_mask"]
    padding = torch.tensor(recorded["attention_mask"]) == 0
    assert (batch["labels"][padding] == facts["ignore_index"]).all()
    assert (torch.tensor(recorded["labels"])[padding] == facts["ignore_index"]).all()


def test_caption_rule(facts):
    for row in facts["caption_text_processor"]:
        assert clean_caption(row["raw"]) == row["out"]


def test_stage_1_layout(facts, tokenizer, placeholders):
    stage = facts["stage1_caption"]
    assert stage["end_sym_default"].encode().decode("unicode_escape") == STAGE1_END
    assert stage["max_txt_len_default"] == STAGE1_MAX_TOKENS
    caption = facts["stage2_caption_prompt_wrap"][0]["caption"]
    prompt = tokenize_segments(caption_segments(caption, "video"), tokenizer, placeholders)
    run = placeholders["video"]
    text_ids = tokenizer(caption + STAGE1_END, add_special_tokens=False)["input_ids"]
    before = [tokenizer.bos_token_id, *[run.token_id] * run.length]
    assert prompt.input_ids == before + text_ids
    assert prompt.labels == [facts["ignore_index"]] * len(before) + text_ids


def test_stage_2_caption_layout(facts, tokenizer, placeholders):
    for row in facts["stage2_caption_prompt_wrap"]:
        template = TEMPLATE_NAMES[row["style"]]
        assert CAPTION_PROMPTS[template][0] == row["prompt_template"]
        segments = prompted_caption_segments(row["caption"], "image", template)
        kinds = [type(segment) for segment in segments]
        medium = kinds.index(Media)
        assert segments[medium - 1] == Text(row["before"])
        assert segments[medium + 1] == Text(row["after"])
        prompt = tokenize_segments(segments, tokenizer, placeholders)
        run = [placeholders["image"].token_id] * placeholders["image"].length
        unlearnt = [tokenizer.bos_token_id, *row["before_ids"], *run, *row["after_ids"]]
        learnt = row["caption_plus_end_ids"]
        assert prompt.input_ids == unlearnt + learnt
        assert prompt.labels == [facts["ignore_index"]] * len(unlearnt) + learnt

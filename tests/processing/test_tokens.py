import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from video_llama.errors import OptionError, PromptTooLongError
from video_llama.processing.conversation import parse_conversation
from video_llama.processing.segments import Media, Special, Text
from video_llama.processing.templates import TEMPLATES, get_template
from video_llama.processing.tokens import (
    IGNORE_INDEX,
    Placeholder,
    TokenizedPrompt,
    check_fits,
    pad_prompts,
    pad_token_id,
    tokenize_segments,
)

PLACEHOLDERS = {
    "image": Placeholder(10_000, 3),
    "video": Placeholder(10_001, 5),
    "audio": Placeholder(10_002, 2),
}
KINDS = {place.token_id: kind for kind, place in PLACEHOLDERS.items()}

# Questions and answers have no letter in common, nor with the marks of a template.
questions = st.text("UVWXYZ 红色#<>/", min_size=1, max_size=20).map(lambda text: f"Z{text}Z")
answers = st.text("0123456789 .,", min_size=1, max_size=20).map(lambda text: f"7{text}7")
media = st.lists(
    st.sampled_from(
        [
            {"type": "image"},
            {"type": "audio"},
            {"type": "video", "sound": False},
            {"type": "video", "sound": True},
        ]
    ),
    max_size=3,
)


@st.composite
def conversations(draw):
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        text = {"type": "text", "text": draw(questions)}
        messages.append({"role": "user", "content": [*draw(media), text]})
        messages.append({"role": "assistant", "content": draw(answers)})
    return messages


def tokenize(conversation, name, tokenizer, layout="chat", **options):
    segments = get_template(name).render(parse_conversation(conversation), layout=layout, **options)
    return tokenize_segments(segments, tokenizer, PLACEHOLDERS)


def usable(name, tokenizer):
    """LLaMA-2's prompt of several turns needs a BOS token."""
    return name != "llama_2" or tokenizer.bos_token_id is not None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    conversation=conversations(),
    name=st.sampled_from(sorted(TEMPLATES)),
    layout=st.sampled_from(["chat", "training"]),
)
def test_masks_and_placeholders(conversation, name, layout, tokenizer):
    if not usable(name, tokenizer):
        return
    prompt = tokenize(conversation, name, tokenizer, layout)
    assert len(prompt.labels) == len(prompt.input_ids)
    # Each medium has exactly its run of placeholders, in order.
    runs = [KINDS[token] for token in prompt.input_ids if token in KINDS]
    assert runs == [
        kind for kind in (m.kind for m in prompt.media) for _ in range(PLACEHOLDERS[kind].length)
    ]
    # A label is the id at its place, and never a placeholder.
    learnt = [label for label in prompt.labels if label != IGNORE_INDEX]
    places = [i for i, label in enumerate(prompt.labels) if label != IGNORE_INDEX]
    assert learnt == [prompt.input_ids[place] for place in places]
    assert not set(learnt) & set(KINDS)
    # The mask covers all of the answers and nothing a user wrote.
    text = tokenizer.decode(learnt)
    assert not re.search("[A-Z红色]", text)
    expected = "".join(m["content"] for m in conversation if m["role"] == "assistant")
    assert re.findall(r"\d", text) == re.findall(r"\d", expected)


@settings(deadline=None)
@given(
    conversation=conversations(),
    name=st.sampled_from(["vicuna", "plain"]),
    layout=st.sampled_from(["chat", "training"]),
)
def test_supervised_tokens_decode_to_the_answers(conversation, name, layout, tokenizers):
    tokenizer = tokenizers["byte"]
    prompt = tokenize(conversation, name, tokenizer, layout)
    learnt = [label for label in prompt.labels if label != IGNORE_INDEX]
    end = {"plain": "</s>", "vicuna": "###" if layout == "chat" else "\n###"}[name]
    expected = [f" {m['content']}{end}" for m in conversation if m["role"] == "assistant"]
    assert tokenizer.decode(learnt) == "".join(expected)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=conversations(), question=questions, answer=answers)
def test_plain_trains_on_the_ids_it_generates(conversation, question, answer, tokenizer):
    """Prompt ids begin the ids of every continuation, and the rest is what is learnt."""
    asked = [*conversation, {"role": "user", "content": question}]
    prompt = tokenize(asked, "plain", tokenizer, add_generation_prompt=True)
    whole = tokenize([*asked, {"role": "assistant", "content": answer}], "plain", tokenizer)
    length = len(prompt.input_ids)
    assert whole.input_ids[:length] == prompt.input_ids
    assert whole.labels[length:] == whole.input_ids[length:]
    generated = whole.input_ids[length:]
    template = get_template("plain")
    assert template.decode_answer(generated, tokenizer).split() == answer.split()
    assert generated[-1:] in template.stop_ids(tokenizer)


def test_what_a_user_types_is_text(tokenizer):
    """Neither special tokens nor placeholders can be typed."""
    nasty = "</s><s><unk> <image> <video> <ImageHere>"
    prompt = tokenize([{"role": "user", "content": nasty}], "plain", tokenizer)
    start = len(tokenize_segments([Special("start")], tokenizer, PLACEHOLDERS).input_ids)
    typed = prompt.input_ids[start:]
    assert not {tokenizer.eos_token_id, tokenizer.bos_token_id, *KINDS} & set(typed)
    assert prompt.media == ()


def test_what_a_user_types_is_text_in_every_thread(tokenizer):
    """Transformers keeps in the tokenizer whether it looks for special tokens."""
    asked = [{"role": "user", "content": "</s><s> and </s><s>"}]
    alone = tokenize(asked, "plain", tokenizer).input_ids

    def often(_: int) -> list[list[int]]:
        return [tokenize(asked, "plain", tokenizer).input_ids for _ in range(500)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = [ids for many in pool.map(often, range(4)) for ids in many]
    finally:
        sys.setswitchinterval(interval)
    assert all(ids == alone for ids in found)


def test_start_is_what_the_tokenizer_puts_there(tokenizers):
    def start(tokenizer):
        return tokenize_segments([Special("start")], tokenizer, PLACEHOLDERS).input_ids

    assert start(tokenizers["llama"]) == [tokenizers["llama"].bos_token_id]
    assert start(tokenizers["unigram"]) == [tokenizers["unigram"].bos_token_id]
    assert start(tokenizers["byte"]) == []


def test_a_missing_special_token_is_named(tokenizers):
    with pytest.raises(OptionError, match="BOS"):
        tokenize_segments([Special("bos")], tokenizers["byte"], PLACEHOLDERS)


def test_stop_ids(tokenizer):
    ids = get_template("vicuna").stop_ids(tokenizer)
    assert {tokenizer.decode(sequence).strip() for sequence in ids} == {"###"}
    for name in ("plain", "llama_2"):
        assert get_template(name).stop_ids(tokenizer) == [[tokenizer.eos_token_id]]


def test_cut_on_the_right_but_never_through_a_medium(tokenizer):
    segments = [Text("Hello"), Media("video", 0), Text(" there", ((0, 6),))]
    whole = tokenize_segments(segments, tokenizer, PLACEHOLDERS)
    length = len(whole.input_ids) - 1
    short = tokenize_segments(segments, tokenizer, PLACEHOLDERS, max_length=length)
    assert short.input_ids == whole.input_ids[:length]
    assert short.labels == whole.labels[:length]
    with pytest.raises(PromptTooLongError, match="max_length") as error:
        tokenize_segments(segments, tokenizer, PLACEHOLDERS, max_length=3)
    assert error.value.excess > 0


def test_padding(tokenizer):
    fill = pad_token_id(tokenizer)
    # An id equal to the padding inside a prompt stays visible.
    prompts = [
        TokenizedPrompt([5, fill, 7], [IGNORE_INDEX, fill, 7], ()),
        TokenizedPrompt([8], [8], ()),
    ]
    right = pad_prompts(prompts, fill, "right")
    assert right["input_ids"].tolist() == [[5, fill, 7], [8, fill, fill]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert right["labels"].tolist() == [[-100, fill, 7], [8, -100, -100]]
    left = pad_prompts(prompts, fill, "left")
    assert left["input_ids"].tolist() == [[5, fill, 7], [fill, fill, 8]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    with pytest.raises(OptionError, match="'middle'"):
        pad_prompts(prompts, fill, "middle")


def test_check_fits():
    check_fits(90, 10, 100)
    with pytest.raises(PromptTooLongError, match="7 more than the model's 100") as error:
        check_fits(97, 10, 100)
    assert error.value.excess == 7

"""The loop, the sampler and the text stream of an answer."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from video_llama.errors import OptionError
from video_llama.generation import (
    AnswerText,
    GenerationOptions,
    IdsToText,
    Sampler,
    generate_ids,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


def ids_of(llama: LlamaForCausalLM, prompt: torch.Tensor, *, stop=(), limit=20, **options):
    embeddings = llama.get_input_embeddings()(prompt).detach()
    sampler = Sampler(GenerationOptions(**options), CPU)
    return list(generate_ids(llama, embeddings, DynamicCache(), sampler, limit, stop))


PROMPT = torch.tensor([[1, 5, 9, 33, 2, 17]])


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_greedy_ids_are_those_of_generate(llama, penalty):
    expected = llama.generate(
        inputs_embeds=llama.get_input_embeddings()(PROMPT),
        attention_mask=torch.ones_like(PROMPT),
        max_new_tokens=20,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert ids_of(llama, PROMPT, repetition_penalty=penalty) == expected[0].tolist()


def test_a_stop_id_ends_the_answer_and_is_given(llama):
    ids = ids_of(llama, PROMPT)
    first = ids.index(ids[4])
    assert ids_of(llama, PROMPT, stop=[ids[4]]) == ids[: first + 1]


def test_a_closed_loop_leaves_a_cache_without_the_last_id(llama):
    cache = DynamicCache()
    embeddings = llama.get_input_embeddings()(PROMPT).detach()
    loop = generate_ids(llama, embeddings, cache, Sampler(GenerationOptions(), CPU), 20, [])
    for _ in range(3):
        next(loop)
    loop.close()
    assert cache.get_seq_length() == PROMPT.shape[1] + 2


def test_a_loop_does_not_switch_gradients_off_for_its_caller(llama):
    embeddings = llama.get_input_embeddings()(PROMPT).detach()
    loop = generate_ids(
        llama, embeddings, DynamicCache(), Sampler(GenerationOptions(), CPU), 20, []
    )
    next(loop)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_seed_makes_the_draw_repeatable(llama):
    hot = {"temperature": 1.5, "top_p": 0.95, "top_k": 40}
    first = ids_of(llama, PROMPT, seed=7, **hot)
    assert first == ids_of(llama, PROMPT, seed=7, **hot)
    others = [ids_of(llama, PROMPT, seed=seed, **hot) for seed in range(8, 12)]
    assert any(other != first for other in others)


def test_the_global_random_state_is_left_alone(llama):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ids_of(llama, PROMPT, temperature=1.0, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_top_k_of_one_is_greedy(llama):
    assert ids_of(llama, PROMPT, temperature=3.0, top_k=1) == ids_of(llama, PROMPT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.2),
        ("top_k", -1),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", 1.5),
        ("stop", ("",)),
        ("stop", (3,)),
    ],
)
def test_a_bad_option_is_named(field, value):
    with pytest.raises(OptionError, match=field):
        GenerationOptions(**{field: value})


def test_an_unknown_option_is_named():
    with pytest.raises(OptionError, match=r"max_tokens.*max_new_tokens"):
        GenerationOptions.of({"max_tokens": 3})


def test_one_stop_text_may_be_given_bare():
    assert GenerationOptions(stop="END").stop == ("END",)


# Text


def decode_bytes(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.text())
def test_bytes_become_the_text_again(text):
    stream = IdsToText(decode_bytes)
    pieces = [stream.add(byte) for byte in text.encode()] + [stream.finish()]
    assert "".join(pieces) == text


@given(st.lists(st.integers(0, 255)))
def test_broken_bytes_are_not_lost(ids):
    """Only the number of signs for one broken stretch may differ from decoding all at once."""
    stream = IdsToText(decode_bytes)
    text = "".join([stream.add(i) for i in ids] + [stream.finish()])
    assert text.replace("\ufffd", "") == decode_bytes(ids).replace("\ufffd", "")


def test_no_half_character_is_given():
    stream = IdsToText(decode_bytes)
    pieces = [stream.add(byte) for byte in "a狗b".encode()]
    assert pieces == ["a", "", "", "狗", "b"]


def whole(text: str, stops: list[str], labels: list[str]) -> str:
    """The clean-up, said for a whole text."""
    text = text.lstrip()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        end = min(ends)
        stop = next(s for s in stops if text[:end].endswith(s))
        text = text[: end - len(stop)]
    while label := next((label for label in labels if text.startswith(label)), None):
        text = text.removeprefix(label).lstrip()
    return text.strip()


SMALL = st.text(alphabet="ab#: \n", max_size=30)


@given(SMALL, st.lists(st.text(alphabet="ab#", min_size=1, max_size=3), max_size=2), st.data())
def test_streamed_text_is_the_whole_text(text, stops, data):
    labels = ["ba:"] if "b" not in stops and "ba" not in stops else []
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5).map(sorted))
    bounds = [0, *cuts, len(text)]
    answer = AnswerText(stops, labels)
    pieces = [answer.add(text[a:b]) for a, b in itertools.pairwise(bounds)]
    streamed = "".join([*pieces, answer.finish()])
    at_once = AnswerText(stops, labels)
    assert streamed == at_once.add(text) + at_once.finish()
    if not any("a" in stop for stop in stops):
        assert streamed == whole(text, stops, labels)


def test_a_stop_text_over_several_tokens_never_shows():
    answer = AnswerText(["###"], ["Assistant:"])
    pieces = [answer.add(piece) for piece in [" Assis", "tant: One", " dog.", " #", "#", "# Human"]]
    assert pieces == ["", "One", " dog.", "", "", ""]
    assert answer.stopped


def test_what_only_looked_like_a_stop_text_is_given():
    answer = AnswerText(["###"])
    assert [answer.add("no. ##"), answer.add("1 of all")] == ["no.", " ##1 of all"]
    assert answer.finish() == ""

"""The engine says what `generate` says, whoever runs beside and whatever happens on the way."""

import copy

import pytest
import torch

from tests.engine.conftest import greedy, make_request, read
from video_llama.engine import engine as engine_module
from video_llama.engine import fused as fused_module
from video_llama.engine.fused import FusedRunner
from video_llama.engine.runner import TransformersRunner

LENGTHS = [5, 17, 33, 9, 70, 1]
LIMITS = [12, 9, 7, 20, 15, 30]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    torch.manual_seed(5)
    return [torch.randint(0, 64, (length,)).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    return {}


def said_by_generate(model, prompts, expected) -> list[list[int]]:
    name = type(model).__name__
    if name not in expected:
        expected[name] = [greedy(model, *each) for each in zip(prompts, LIMITS, strict=True)]
    return expected[name]


WAYS = {
    "plain": {},
    "few slots, odd chunks": {"slots": 3, "prefill_chunk": 3},
    "little memory": {"slots": 6, "cache_tokens": 256, "prefill_chunk": 7},
    "in turns": {"slots": 2, "turn_tokens": 5},
    "in turns, nothing kept": {"slots": 2, "turn_tokens": 5, "kept_tokens": 0},
}


@pytest.mark.parametrize(
    ("kind", "way", "fuse"),
    [
        *(("llama", way, True) for way in WAYS),
        ("llama", "few slots, odd chunks", False),
        ("llama", "in turns", False),
        ("grouped", "little memory", True),
        ("grouped", "in turns, nothing kept", True),
        ("grouped", "few slots, odd chunks", False),
        ("windowed", "plain", False),
        ("windowed", "in turns", False),
        ("windowed", "little memory", False),
    ],
)
def test_together_equals_alone(request, prompts, expected, make_engine, kind, way, fuse):
    model = request.getfixturevalue(kind)
    engine = make_engine(model, fuse=fuse, **WAYS[way])
    handles = [
        engine.submit(make_request(model, prompt, max_new_tokens=limit))
        for prompt, limit in zip(prompts, LIMITS, strict=True)
    ]
    answers = [read(handle) for handle in handles]
    assert [ids for ids, *_ in answers] == said_by_generate(model, prompts, expected)
    assert [end.usage.completion_tokens for *_, end in answers] == LIMITS
    preemptions = engine.metrics().preemptions
    assert (preemptions > 5) == ("in turns" in way)


def test_what_runs_which_model(llama, grouped, windowed, make_engine):
    assert isinstance(make_engine(llama)._runner, FusedRunner)
    assert isinstance(make_engine(grouped)._runner, FusedRunner)
    assert isinstance(make_engine(windowed)._runner, TransformersRunner)
    assert isinstance(make_engine(llama, fuse=False)._runner, TransformersRunner)


def test_logits_of_both_runners(grouped, make_engine, monkeypatch):
    """In half precision they may differ by as much as that costs anyway."""
    monkeypatch.setattr(engine_module, "computing_type", lambda model: model.dtype)
    exact = logits_of(make_engine(grouped, fuse=False))
    assert (logits_of(make_engine(grouped)) - exact).abs().max() < 1e-4
    half = copy.deepcopy(grouped).to(torch.bfloat16)
    fused, plain = (logits_of(make_engine(half, fuse=fuse)) for fuse in (True, False))
    assert 0 < (fused - exact).norm() < 1.2 * (plain - exact).norm()


def test_half_precision_on_a_cpu_that_cannot_multiply_it(grouped, make_engine, monkeypatch):
    """What the weights mean is computed in full precision."""
    monkeypatch.setattr(fused_module, "multiplies", lambda dtype: False)
    half = copy.deepcopy(grouped).to(torch.bfloat16)
    exact = logits_of(make_engine(copy.deepcopy(half).float(), fuse=False))
    engine = make_engine(half)
    assert engine._cache.shape.dtype == torch.float32
    assert (logits_of(engine) - exact).abs().max() < 1e-4
    assert make_engine(half, fuse=False)._cache.shape.dtype == torch.bfloat16


def logits_of(engine) -> torch.Tensor:
    """Of two prompts, one in two chunks, and of a step after them."""
    engine._cache.resize(2, 64, 0)
    embeddings = engine._model.get_input_embeddings()(torch.arange(40))
    with torch.inference_mode():
        first = engine._runner.prefill(0, 0, embeddings[:30])
        rest = engine._runner.prefill(0, 30, embeddings[30:])
        engine._runner.prefill(1, 0, embeddings[:7])
        return torch.cat([first, rest, engine._runner.decode([3, 9], [40, 7])]).float()


def test_growing_rows_send_the_youngest_back(llama, make_engine):
    """Three rows of 64 tokens fit, not three of 128."""
    engine = make_engine(llama, slots=3, cache_tokens=192)
    prompts = [list(range(n, n + 30)) for n in range(3)]
    handles = [engine.submit(make_request(llama, one, max_new_tokens=40)) for one in prompts]
    assert [read(handle)[0] for handle in handles] == [greedy(llama, one, 40) for one in prompts]
    assert engine.metrics().preemptions > 0
    assert engine._cache.rows * engine._cache.capacity <= 192


@pytest.mark.parametrize("fuse", [True, False])
def test_a_prompt_that_begins_alike_is_not_run_again(llama, make_engine, fuse):
    engine = make_engine(llama, fuse=fuse)
    first = list(range(30))
    ids, _, end = read(engine.submit(make_request(llama, first)))
    assert end.usage.reused_tokens == 0
    second = [*first, *ids, 7, 8, 9]
    again, _, end = read(engine.submit(make_request(llama, second)))
    # The last id of an answer is chosen, and never run.
    assert end.usage.reused_tokens == len(first) + len(ids) - 1
    assert again == greedy(llama, second, 20)
    branched = [*first[:12], 40, 41]
    other, _, end = read(engine.submit(make_request(llama, branched)))
    assert end.usage.reused_tokens == 12
    assert other == greedy(llama, branched, 20)


def test_a_prompt_is_taken_over_from_one_that_runs(llama, make_engine):
    engine = make_engine(llama)
    prompt = list(range(30))
    handles = [
        engine.submit(make_request(llama, [*prompt, last], max_new_tokens=12))
        for last in (3, 4, 5, 5)
    ]
    answers = [read(handle) for handle in handles]
    assert [end.usage.reused_tokens for *_, end in answers[1:]] == [30, 30, 30]
    assert [ids for ids, *_ in answers] == [greedy(llama, [*prompt, k], 12) for k in (3, 4, 5, 5)]


def test_keys_tell_prompts_apart_not_ids(llama, make_engine):
    """Two media of one length: their embeddings differ, and so do their keys."""
    engine = make_engine(llama)
    torch.manual_seed(3)
    media = torch.randn(2, 8, 32)
    answers = []
    for number in (0, 1, 0):
        request = make_request(llama, range(8), embeddings=media[number])
        request = type(request)(
            **{**vars(request), "keys": tuple((f"medium {number}", at) for at in range(8))}
        )
        answers.append(read(engine.submit(request)))
    assert answers[0][0] != answers[1][0]
    assert answers[0][0] == answers[2][0]
    assert [end.usage.reused_tokens for *_, end in answers] == [0, 0, 7]


HOT = {"temperature": 1.3, "top_p": 0.9, "top_k": 30, "repetition_penalty": 1.2}


def test_a_seed_says_the_same_in_company(llama, make_engine):
    alone = read(make_engine(llama).submit(make_request(llama, [1, 2, 3], seed=4, **HOT)))[0]
    for settings in ({}, {"slots": 2, "turn_tokens": 3}):
        engine = make_engine(llama, **settings)
        handles = [
            engine.submit(make_request(llama, [n + 1, n + 2, n + 3], **options))
            for n, options in [
                (9, {}),
                (4, {"seed": 1, **HOT}),
                (0, {"seed": 4, **HOT}),
                (7, {"temperature": 0.5, "seed": 2}),
                (2, {"repetition_penalty": 1.7}),
            ]
        ]
        answers = [read(handle)[0] for handle in handles]
        assert answers[2] == alone
        assert answers[0] == greedy(llama, [10, 11, 12], 20)


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
def test_a_penalty_is_that_of_generate(llama, make_engine):
    engine = make_engine(llama, slots=2, turn_tokens=4)
    handles = [
        engine.submit(make_request(llama, [n, 5, 9], repetition_penalty=1.7)) for n in range(3)
    ]
    expected = [greedy(llama, [n, 5, 9], 20, repetition_penalty=1.7) for n in range(3)]
    assert [read(handle)[0] for handle in handles] == expected

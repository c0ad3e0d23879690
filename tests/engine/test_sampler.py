"""Rows sampled together are sampled as transformers samples each alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from video_llama.engine.sampler import Sampler, Sampling
from video_llama.generation import GenerationOptions

VOCABULARY = 40


def alone(options: GenerationOptions, steps: torch.Tensor) -> list[int]:
    """Logits (steps, V) -> ids, by transformers' own processors and a plain draw."""
    rules = LogitsProcessorList()
    if options.repetition_penalty != 1:
        rules.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
    if options.temperature:
        rules.append(TemperatureLogitsWarper(float(options.temperature)))
        if options.top_k:
            rules.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            rules.append(TopPLogitsWarper(float(options.top_p)))
    generator = torch.Generator().manual_seed(options.seed or 0)
    ids: list[int] = []
    for logits in steps:
        scores = rules(torch.tensor([ids], dtype=torch.long), logits[None].clone())
        if options.temperature:
            drawn = torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)
            ids.append(int(drawn))
        else:
            ids.append(int(scores.argmax()))
    return ids


options = st.builds(
    GenerationOptions,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 20, 1000]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.5]),
    seed=st.integers(0, 5),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(options, min_size=1, max_size=5), st.integers(0, 1000))
def test_rows_together_are_rows_alone(rows, seed):
    logits = torch.randn(6, len(rows), VOCABULARY, generator=torch.Generator().manual_seed(seed))
    logits *= 3
    sampler = Sampler(str)
    samplings = [Sampling(one) for one in rows]
    for step in logits:
        sampler.choose(step, samplings)
    expected = [alone(one, logits[:, place]) for place, one in enumerate(rows)]
    assert [sampling.ids for sampling in samplings] == expected


def test_rows_may_come_and_go():
    logits = torch.randn(8, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    hot = GenerationOptions(temperature=1.0, top_p=0.8, repetition_penalty=1.4, seed=3)
    one, other = Sampling(hot), Sampling(GenerationOptions(temperature=2.0))
    sampler = Sampler(str)
    for number, step in enumerate(logits):
        company = [[one], [other, one], [one, other]][number % 3]
        sampler.choose(step.expand(len(company), -1), company)
    assert one.ids == alone(hot, logits)


def test_no_seed_differs_each_time():
    logits = torch.zeros(1, VOCABULARY)
    sampler = Sampler(str)
    drawn = set()
    for _ in range(5):
        sampling = Sampling(GenerationOptions(temperature=1.0))
        for _ in range(8):
            sampler.choose(logits, [sampling])
        drawn.add(tuple(sampling.ids))
    assert len(drawn) == 5


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    sampling = Sampling(GenerationOptions(temperature=1.0))
    Sampler(str).choose(torch.zeros(1, VOCABULARY), [sampling])
    assert torch.equal(before, torch.get_rng_state())


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)]])
    sampling = Sampling(GenerationOptions(temperature=1.0, seed=0))
    sampler = Sampler(str)
    for _ in range(3000):
        sampler.choose(logits, [sampling])
    shares = torch.bincount(torch.tensor(sampling.ids)) / 3000
    assert torch.allclose(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.03)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_logprobs_are_the_models_own(temperature):
    logits = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1))
    rows = [
        Sampling(GenerationOptions(temperature=temperature, repetition_penalty=1.5), logprobs=n)
        for n in (None, 0, 4)
    ]
    sampler = Sampler(lambda token: f"<{token}>")
    ids = sampler.choose(logits, rows)
    found = sampler.logprobs(logits, rows)
    expected = logits.log_softmax(dim=-1)
    assert set(found) == {1, 2}
    for place in (1, 2):
        one = found[place]
        assert (one.id, one.text) == (ids[place], f"<{ids[place]}>")
        assert one.logprob == pytest.approx(float(expected[place, ids[place]]), abs=1e-5)
    assert found[1].top == ()
    values, best = expected[2].topk(4)
    assert [one.id for one in found[2].top] == best.tolist()
    assert [one.logprob for one in found[2].top] == pytest.approx(values.tolist(), abs=1e-5)

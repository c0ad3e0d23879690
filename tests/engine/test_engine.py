"""What askers see: streams, ends, limits; and that nobody waits for what is not theirs."""

import asyncio
import gc
import multiprocessing
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from tests.engine.conftest import Gate, embed, greedy, letters, make_request, read
from video_llama.engine import engine as engine_module
from video_llama.engine.engine import Engine
from video_llama.engine.job import Texts
from video_llama.engine.request import Finished, Piece
from video_llama.errors import BusyError, OptionError
from video_llama.processing.tokenizer import load_tokenizer
from video_llama.reply import PLAIN_DECODING

TOKENIZER = Path(__file__).parents[1] / "parity/kit/tokenizer"
PROMPT = [1, 5, 9, 33, 2, 17]


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def test_pieces_come_before_the_end(llama, make_engine, monkeypatch):
    engine = make_engine(llama)
    gate = Gate(engine, monkeypatch)
    handle = engine.submit(make_request(llama, PROMPT, max_new_tokens=3))
    expected = greedy(llama, PROMPT, 3)
    for token in expected:
        piece = next(handle)
        assert isinstance(piece, Piece)
        assert (piece.ids, piece.text) == ((token,), letters([token]))
        gate.let(1)
    end = next(handle)
    assert isinstance(end, Finished)
    assert end.reason == "length"
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (6, 3)
    assert 0 <= end.timings.queued <= end.timings.first_token <= end.timings.total
    assert list(handle) == []


def test_a_stop_id_ends_an_answer_and_has_no_text(llama, make_engine):
    expected = greedy(llama, PROMPT, 20)
    stop = expected[4]
    length = expected.index(stop) + 1
    ids, text, end = read(make_engine(llama).submit(make_request(llama, PROMPT, stop_ids=[stop])))
    assert ids == expected[:length]
    assert text == letters(expected[: length - 1])
    assert end.reason == "stop"


def test_stop_texts_of_the_engine_and_of_the_request(llama, make_engine):
    said = letters(greedy(llama, PROMPT, 20))
    stop = said[4:6]
    for settings, options in (({"stop_texts": [stop]}, {}), ({}, {"stop": stop})):
        handle = make_engine(llama, **settings).submit(make_request(llama, PROMPT, **options))
        ids, text, end = read(handle)
        assert text == said[: said.index(stop)].strip()
        assert len(ids) == said.index(stop) + 2
        assert end.reason == "stop"


def test_logprobs_come_with_their_ids(llama, make_engine):
    engine = make_engine(llama)
    other = engine.submit(make_request(llama, PROMPT[1:]))
    handle = engine.submit(make_request(llama, PROMPT, max_new_tokens=5, logprobs=2))
    pieces = [event for event in handle if isinstance(event, Piece)]
    ids = [token for piece in pieces for token in piece.ids]
    told = [one for piece in pieces for one in piece.logprobs]
    assert [one.id for one in told] == ids == greedy(llama, PROMPT, 5)
    with torch.inference_mode():
        logits = llama(torch.tensor([PROMPT + ids])).logits[0, len(PROMPT) - 1 : -1]
    for one, row in zip(told, logits.log_softmax(dim=-1), strict=True):
        assert one.logprob == pytest.approx(float(row[one.id]), abs=1e-4)
        assert [best.id for best in one.top] == row.topk(2).indices.tolist()
        assert one.text == letters([one.id])
    assert not any(event.logprobs for event in other if isinstance(event, Piece))


def test_tokens_keep_the_space_that_they_begin_with():
    """A tokenizer of LLaMA's kind takes it from the first of several, so from any alone."""
    tokenizer = load_tokenizer(TOKENIZER)
    ids = tokenizer(" I see a dog and", add_special_tokens=False).input_ids
    texts = Texts(partial(tokenizer.decode, **PLAIN_DECODING))
    told = [texts.of_one(token) for token in ids]
    assert "".join(told).strip() == "I see a dog and"
    assert " dog" in told


def test_a_model_that_takes_no_positions_is_refused(make_engine):
    """It adds them to the scores (ALiBi), by a mask of its own."""
    config = BloomConfig(vocab_size=60, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(OptionError, match="BloomForCausalLM does not"):
        Engine(BloomForCausalLM(config).eval(), letters)


def test_who_calls_off_is_out_after_the_step(llama, make_engine, monkeypatch):
    engine = make_engine(llama, slots=1)
    gate = Gate(engine, monkeypatch)
    first, second, third = (
        engine.submit(make_request(llama, [n, *PROMPT], max_new_tokens=30)) for n in range(3)
    )
    next(first)
    second.cancel()
    first.cancel()
    gate.let(1)  # the step that runs
    assert read(first)[2].reason == "cancelled"
    ids, _, end = read(second)
    assert (ids, end.reason, end.timings.queued) == ([], "cancelled", None)
    gate.let(100)
    assert read(third)[0] == greedy(llama, [2, *PROMPT], 30)
    assert engine.metrics().finished == {"cancelled": 2, "length": 1}


def test_a_deadline_ends_an_answer_where_it_is(llama, make_engine, monkeypatch):
    engine = make_engine(llama, slots=1)
    gate = Gate(engine, monkeypatch)
    deadline = time.monotonic() + 1.5
    running = engine.submit(make_request(llama, PROMPT, deadline=deadline))
    waiting = engine.submit(make_request(llama, PROMPT, deadline=deadline))
    next(running)
    time.sleep(max(0.0, deadline - time.monotonic()) + 0.05)
    gate.let(100)
    ids, _, end = read(running)
    assert (len(ids), end.reason) == (1, "deadline")
    assert read(waiting)[2].reason == "deadline"


def test_a_full_queue_refuses(llama, make_engine, monkeypatch):
    engine = make_engine(llama, slots=1, max_waiting=1)
    gate = Gate(engine, monkeypatch)
    handles = [engine.submit(make_request(llama, PROMPT)) for _ in range(2)]
    with pytest.raises(BusyError, match=r"2 requests.*later"):
        engine.submit(make_request(llama, PROMPT))
    handles[1].cancel()
    gate.let(1)
    read(handles[1])
    handles.append(engine.submit(make_request(llama, PROMPT)))
    gate.let(100)
    assert read(handles[0])[0] == read(handles[2])[0] == greedy(llama, PROMPT, 20)


def test_a_request_that_cannot_fit_is_refused(llama, make_engine):
    engine = make_engine(llama, longest=40)
    with pytest.raises(OptionError, match=r"46 tokens; 40 fit"):
        engine.submit(make_request(llama, PROMPT, max_new_tokens=40))
    assert len(read(engine.submit(make_request(llama, PROMPT, max_new_tokens=34)))[0]) == 34


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slots", 0),
        ("max_waiting", -1),
        ("prefill_chunk", 0),
        ("turn_tokens", 0),
        ("cache_tokens", 100),
        ("cache_tokens", 0),
        ("longest", 0),
    ],
)
def test_a_bad_setting_is_named(llama, make_engine, name, value):
    with pytest.raises(OptionError, match=name):
        make_engine(llama, **{name: value})


@pytest.mark.parametrize(
    "change", [{"keys": ()}, {"logprobs": -1}, {"options": "no limit"}], ids=str
)
def test_a_bad_request_is_refused(llama, change):
    request = make_request(llama, PROMPT)
    if "options" in change:
        change = {"options": type(request.options)()}
    with pytest.raises(OptionError):
        type(request)(**{**vars(request), **change})


def test_memory_is_given_in_bytes(llama, make_engine):
    token = make_engine(llama)._cache.shape.bytes_per_token
    longest = make_engine(llama).longest
    engine = make_engine(llama, cache_bytes=3 * longest * token, kept_bytes=5 * token)
    assert engine.metrics().cache_limit == 3 * longest
    assert engine._kept.max_tokens == 5
    with pytest.raises(OptionError, match=f"cache_bytes must be {longest * token:,} or more"):
        make_engine(llama, cache_bytes=longest * token - 1)


def test_embeddings_are_made_when_they_are_needed(llama, make_engine, monkeypatch):
    engine = make_engine(llama, slots=1, prefill_chunk=2)
    gate = Gate(engine, monkeypatch)
    made = []

    def make():
        made.append(threading.current_thread().name)
        return embed(llama, PROMPT)

    first = engine.submit(make_request(llama, PROMPT, max_new_tokens=5))
    second = engine.submit(make_request(llama, PROMPT[::-1], embeddings=make))
    next(first)
    assert made == []
    gate.let(100)
    read(first)
    read(second)
    assert made == ["engine"]  # once, though the prompt ran in three chunks


def test_who_cannot_be_embedded_fails_alone(llama, make_engine):
    engine = make_engine(llama)

    def fail():
        raise ValueError("the prompt has 4 video placeholders and 3 tokens were given")

    bad = engine.submit(make_request(llama, PROMPT, embeddings=fail))
    good = engine.submit(make_request(llama, PROMPT))
    with pytest.raises(ValueError, match="placeholders"):
        read(bad)
    assert read(good)[0] == greedy(llama, PROMPT, 20)
    assert engine.metrics().finished == {"error": 1, "length": 1}


@pytest.mark.parametrize("when", ["at once", "at the end"])
def test_a_text_that_cannot_be_written_fails_alone(llama, make_engine, monkeypatch, when):
    engine = make_engine(llama)

    def fail(*_):
        raise ValueError("no such token")

    bad = engine._job(make_request(llama, PROMPT))
    monkeypatch.setattr(bad.to_text, "add" if when == "at once" else "finish", fail)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_job", lambda _: bad)
        handle = engine.submit(bad.request)
    good = engine.submit(make_request(llama, PROMPT))
    with pytest.raises(ValueError, match="no such token"):
        read(handle)
    assert read(good)[0] == greedy(llama, PROMPT, 20)
    assert engine.metrics().finished == {"error": 1, "length": 1}


def test_a_model_that_fails_tells_everyone_and_goes_on(llama, make_engine, monkeypatch):
    engine = make_engine(llama, slots=1)
    with monkeypatch.context() as patch:

        def fail(*_):
            raise RuntimeError("out of memory")

        patch.setattr(engine._runner, "decode", fail)
        handles = [engine.submit(make_request(llama, PROMPT)) for _ in range(2)]
        for handle in handles:
            with pytest.raises(RuntimeError, match="out of memory"):
                read(handle)
    assert read(engine.submit(make_request(llama, PROMPT)))[0] == greedy(llama, PROMPT, 20)


def test_encoding_elsewhere_does_not_hold_up_answers(llama, make_engine):
    """Whoever asks encodes first, in a thread of their own; answers of others go on meanwhile."""
    engine = make_engine(llama)
    released, encoding = threading.Event(), threading.Event()
    answers = []

    def slow_asker():
        encoding.set()
        released.wait(20)
        answers.append(read(engine.submit(make_request(llama, PROMPT[1:])))[0])

    thread = threading.Thread(target=slow_asker)
    thread.start()
    encoding.wait(20)
    assert read(engine.submit(make_request(llama, PROMPT)))[0] == greedy(llama, PROMPT, 20)
    released.set()
    thread.join(20)
    assert answers == [greedy(llama, PROMPT[1:], 20)]


def test_a_long_prompt_does_not_hold_up_answers(llama, make_engine, monkeypatch):
    """Between its chunks those that run go on."""
    engine = make_engine(llama, prefill_chunk=10)
    order = []
    real = engine._runner.prefill, engine._runner.decode
    monkeypatch.setattr(
        engine._runner, "prefill", lambda *a: order.append(len(a[2])) or real[0](*a)
    )
    monkeypatch.setattr(engine._runner, "decode", lambda *a: order.append("step") or real[1](*a))
    gate = Gate(engine, monkeypatch)
    first = engine.submit(make_request(llama, PROMPT, max_new_tokens=30))
    next(first)
    second = engine.submit(make_request(llama, list(range(35)), max_new_tokens=2))
    gate.let(100)
    read(first), read(second)
    assert order[0] == 6
    chunks = [place for place, what in enumerate(order) if what == 10]
    assert len(chunks) == 3
    assert all(order[place + 1] == "step" for place in chunks)


def test_a_listener_hears_everything(llama, make_engine, monkeypatch):
    engine = make_engine(llama)
    gate = Gate(engine, monkeypatch)
    handle = engine.submit(make_request(llama, PROMPT, max_new_tokens=4))
    wait_for(lambda: handle.first_token is not None)
    heard = []
    handle.add_listener(heard.append)
    gate.let(10)
    assert handle.wait(20)
    wait_for(lambda: len(heard) == 5)
    assert [token for piece in heard[:-1] for token in piece.ids] == greedy(llama, PROMPT, 4)
    assert isinstance(heard[-1], Finished)


def test_a_stream_for_asyncio(llama, make_engine):
    engine = make_engine(llama)

    async def ask(prompt):
        handle = engine.submit(make_request(llama, prompt, max_new_tokens=10))
        return [token async for e in handle.astream() if isinstance(e, Piece) for token in e.ids]

    async def both():
        return await asyncio.gather(ask(PROMPT), ask(PROMPT[::-1]))

    assert asyncio.run(both()) == [greedy(llama, PROMPT, 10), greedy(llama, PROMPT[::-1], 10)]


def test_leaving_an_asyncio_stream_calls_it_off(llama, make_engine, monkeypatch):
    engine = make_engine(llama)
    gate = Gate(engine, monkeypatch)

    async def leave():
        handle = engine.submit(make_request(llama, PROMPT, max_new_tokens=100))
        stream = handle.astream()
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())
    gate.let(1)
    wait_for(lambda: engine.metrics().finished == {"cancelled": 1})


def test_shutdown_drains_or_cuts_off(llama, make_engine, monkeypatch):
    engine = make_engine(llama, slots=1)
    gate = Gate(engine, monkeypatch)
    handles = [engine.submit(make_request(llama, PROMPT)) for _ in range(2)]
    next(handles[0])
    assert not engine.shutdown(timeout=0.05)
    with pytest.raises(BusyError, match="shutting down"):
        engine.submit(make_request(llama, PROMPT))
    gate.let(100)
    assert engine.shutdown(timeout=20)
    assert [read(handle)[2].reason for handle in handles] == ["length", "length"]

    engine = make_engine(llama, slots=1)
    gate = Gate(engine, monkeypatch)
    handles = [engine.submit(make_request(llama, PROMPT)) for _ in range(2)]
    next(handles[0])
    gate.let(1)
    assert engine.shutdown(drain=False, timeout=20)
    assert [read(handle)[2].reason for handle in handles] == ["cancelled", "cancelled"]


def test_metrics(llama, make_engine, monkeypatch):
    engine = make_engine(llama, slots=2)
    gate = Gate(engine, monkeypatch)
    with engine._changed:  # it sees them all at once, however fast it is
        handles = [engine.submit(make_request(llama, [n, *PROMPT])) for n in range(3)]
    next(handles[1])
    now = engine.metrics()
    assert (now.running, now.waiting, now.slots) == (2, 1, 2)
    assert now.cache_tokens == 14
    gate.let(100)
    for handle in handles:
        read(handle)
    read(engine.submit(make_request(llama, [0, *PROMPT])))
    now = engine.metrics()
    assert (now.running, now.waiting, now.cache_tokens) == (0, 0, 0)
    assert (now.prompt_tokens, now.reused_tokens, now.generated_tokens) == (28, 6, 80)
    assert now.kept_tokens == 3 * 26
    assert now.finished == {"length": 4}
    assert max(gate.batches) == 2


def test_an_idle_engine_can_be_dropped(llama, monkeypatch):
    monkeypatch.setattr(engine_module, "LINGER", 0.05)
    dropped = weakref.ref(used_twice(llama))
    gc.collect()
    assert dropped() is None


def used_twice(llama) -> engine_module.Engine:
    """Its thread has ended after each answer."""
    engine = engine_module.Engine(llama, letters)
    for _ in range(2):
        assert read(engine.submit(make_request(llama, PROMPT)))[0] == greedy(llama, PROMPT, 20)
        wait_for(lambda: engine._thread is None)
    return engine


def test_the_askers_switches_are_left_alone(llama, make_engine):
    read(make_engine(llama).submit(make_request(llama, PROMPT)))
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


BROKEN_OFF = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from tests.engine.conftest import SIZES, letters, make_request
from video_llama.engine.engine import Engine

model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "hidden_size": 256})).eval()
handle = Engine(model, letters).submit(make_request(model, [1, 2, 3], max_new_tokens=150))
print(next(handle).text)
"""


def test_a_process_may_end_before_its_answer():
    ran = subprocess.run(
        [sys.executable, "-c", BROKEN_OFF],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.strip()) == 1


def test_a_forked_process_has_answers_of_its_own(make_engine, llama):
    """Just after an answer the engine's thread still waits for another; in a fork it is gone."""
    engine = make_engine(llama)

    def ids() -> list[int]:
        return read(engine.submit(make_request(llama, PROMPT)))[0]

    expected = ids()
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe()
    process = context.Process(target=lambda: send.send(ids()))
    process.start()
    came = receive.poll(30)
    process.kill()
    process.join()
    assert came
    assert receive.recv() == expected

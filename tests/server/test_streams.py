"""Many at once, and what goes wrong on the way: hang-ups, full queues, killed decoders, the end."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from dataclasses import replace

import openai
import pytest

from video_llama import media_cache
from video_llama.attachment import MediaOptions, read
from video_llama.server import run


@pytest.fixture(scope="module")
def small(start):
    """Two answers at a time, one may wait."""
    return start(serving={"places": 3}, slots=2)


LONG = {"max_completion_tokens": 600}


def film(clip_path, data_url) -> dict:
    return {
        "type": "video_url",
        "video_url": {"url": data_url(clip_path.read_bytes(), "video/mp4")},
    }


def post(running, body: dict) -> socket.socket:
    """A request by hand, whose connection can be cut."""
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", running.port))
    connection.sendall(head.encode() + content)
    return connection


def test_answers_of_many_are_not_mixed_up(api, ask, background, png, data_url):
    bodies = [
        ask(
            {"type": "image_url", "image_url": {"url": data_url(png(colour=colour))}},
            text=f"What is number {number}?",
            logprobs=True,
        )
        for number, colour in enumerate(("red", "blue", "green", "white") * 3)
    ]
    client = api.client()

    def answer(body: dict) -> list:
        said = client.chat.completions.create(**body).choices[0]
        return [said.message.content, *(round(t.logprob, 3) for t in said.logprobs.content)]

    alone = [answer(body) for body in bodies]
    together = [background(lambda b=body: answer(b)) for body in bodies]
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert other.end()[0] == one[0], number
        assert other.result[1:] == pytest.approx(one[1:], abs=0.01), number
    assert len({tuple(answer) for answer in alone}) == len(bodies)


@pytest.mark.parametrize("stream", [True, False])
def test_a_closed_connection_frees_its_place_at_once(api, ask, monkeypatch, eventually, stream):
    api.slow_down(monkeypatch)
    connection = post(api, ask(**LONG, stream=stream))
    eventually(lambda: api.running() == 1)
    time.sleep(0.2)
    connection.close()
    closed = time.monotonic()
    eventually(lambda: api.running() == 0 and api.open_requests() == 0)
    assert time.monotonic() - closed < 9  # a whole answer takes 18 seconds


def test_a_client_that_hangs_up_while_its_media_are_read(
    start, ask, monkeypatch, eventually, clip_path, data_url
):
    running = start()
    (process,) = running.server.decoders.process_ids
    os.kill(process, signal.SIGSTOP)
    connection = post(running, ask(film(clip_path, data_url)))
    eventually(running.server.decoders._idle.empty)  # it has been given the clip
    connection.close()
    eventually(lambda: running.open_requests() == 0)
    eventually(lambda: running.server.decoders.process_ids != [process], 60)
    assert running.client().chat.completions.create(**ask(film(clip_path, data_url))).choices


def test_whoever_waits_for_the_same_medium_is_not_left_with_nothing(
    start, ask, eventually, background, clip_path, data_url
):
    running = start()
    (process,) = running.server.decoders.process_ids
    os.kill(process, signal.SIGSTOP)
    first = post(running, ask(film(clip_path, data_url)))
    eventually(running.server.decoders._idle.empty)
    client = running.client()
    second = background(lambda: client.chat.completions.create(**ask(film(clip_path, data_url))))
    eventually(lambda: running.open_requests() == 2)
    time.sleep(0.3)
    first.close()  # it was the one that had the medium read
    assert second.end().choices[0].message.content


def test_a_decoder_that_is_killed_is_a_422_and_nothing_else(
    start, ask, eventually, background, clip_path, png, data_url, monkeypatch
):
    running = start()
    client = running.client()
    running.slow_down(monkeypatch, 0.01)
    other = background(lambda: client.chat.completions.create(**ask(text="Who?", **LONG)))
    eventually(lambda: running.running() == 1)
    (process,) = running.server.decoders.process_ids
    os.kill(process, signal.SIGSTOP)
    asking = background(lambda: client.chat.completions.create(**ask(film(clip_path, data_url))))
    eventually(running.server.decoders._idle.empty)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        asking.end()
    assert caught.value.code == "corrupt_media"
    assert other.end(30).choices[0].message.content
    assert running.server.serving.state()["decoders_replaced_total"] == 1
    body = ask(film(clip_path, data_url), max_completion_tokens=2)
    assert client.chat.completions.create(**body).choices


def test_a_full_queue_is_a_429_with_a_time(small, ask, monkeypatch, eventually):
    before = small.server.serving.state()["completion_tokens_total"]
    small.slow_down(monkeypatch)
    connections = [post(small, ask(**LONG, stream=True)) for _ in range(3)]
    eventually(lambda: small.open_requests() == 3)
    with small.http() as http:
        answer = http.post("/v1/chat/completions", json=ask())
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json()["error"]["code"] == "queue_full"
    with pytest.raises(openai.RateLimitError):
        small.client().chat.completions.create(**ask())
    with small.http() as http:
        assert http.get("/health").status_code == 200  # everything else is answered
        text = http.get("/metrics").text
    assert "video_llama_requests_open 3.0" in text
    connections[0].close()
    eventually(lambda: small.open_requests() == 2)
    for connection in connections[1:]:
        connection.close()
    eventually(lambda: small.open_requests() == 0)
    # Nobody has waited for an end, and the work was done.
    assert small.server.serving.state()["completion_tokens_total"] > before


def test_more_choices_than_there_are_places_for_are_refused_for_good(small, ask):
    with pytest.raises(openai.BadRequestError) as caught:
        small.client().chat.completions.create(**ask(n=16, temperature=1.0))
    assert caught.value.param == "n"


def test_more_choices_than_the_engine_takes_are_refused_as_one(small, ask, monkeypatch, eventually):
    engine = small.server.engine
    monkeypatch.setattr(engine, "max_waiting", 0)  # two run, and none may wait
    with pytest.raises(openai.RateLimitError):
        small.client().chat.completions.create(**ask(n=3, temperature=1.0))
    eventually(lambda: small.running() == 0 and small.open_requests() == 0)
    assert small.client().chat.completions.create(**ask(n=2)).choices


def allow(running, monkeypatch, seconds: float) -> None:
    """Requests from now on have so much time."""
    serving = running.server.serving
    monkeypatch.setattr(serving, "policy", replace(serving.policy, seconds=seconds))


def test_an_answer_ends_with_its_time(api, ask, monkeypatch):
    allow(api, monkeypatch, 0.7)
    api.slow_down(monkeypatch)
    choice = api.client().chat.completions.create(**ask(**LONG)).choices[0]
    assert choice.finish_reason == "length"
    assert 0 < len(choice.message.content) < 600


@pytest.mark.parametrize("stream", [False, True])
def test_time_that_is_over_before_the_first_word_is_a_503(
    small, ask, monkeypatch, eventually, stream
):
    small.slow_down(monkeypatch)
    connections = [post(small, ask(**LONG, stream=True)) for _ in range(2)]
    eventually(lambda: small.server.serving.state()["requests_running"] == 2)
    allow(small, monkeypatch, 0.5)
    with small.http() as http:
        answer = http.post("/v1/chat/completions", json=ask(stream=stream))
    if stream:
        told = json.loads(answer.text.split("data: ")[-1])
    else:
        told = answer.json()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert told["error"]["code"] == "overdue"
    for connection in connections:
        connection.close()
    eventually(lambda: small.open_requests() == 0 and small.running() == 0)


def test_time_counts_while_media_are_read(start, ask, eventually, monkeypatch, clip_path, data_url):
    running = start()
    allow(running, monkeypatch, 0.5)
    (process,) = running.server.decoders.process_ids
    os.kill(process, signal.SIGSTOP)
    with running.http() as http:
        answer = http.post("/v1/chat/completions", json=ask(film(clip_path, data_url)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overdue")
    assert answer.headers["retry-after"]
    assert running.open_requests() == 0
    eventually(lambda: process not in running.server.decoders.process_ids)  # it is given up, too


def test_texts_and_known_media_do_not_wait_for_decoders(start, ask, eventually, png, data_url):
    running = start(serving={"media_threads": 2})
    client = running.client()
    known = ask({"type": "image_url", "image_url": {"url": data_url(png(colour="blue"))}})
    client.chat.completions.create(**known)
    (process,) = running.server.decoders.process_ids
    os.kill(process, signal.SIGSTOP)
    pictures = [data_url(png(colour=colour)) for colour in ("red", "green", "white", "black")]
    waiting = [
        post(running, ask({"type": "image_url", "image_url": {"url": url}})) for url in pictures
    ]
    eventually(lambda: running.open_requests() == len(waiting))
    quick = client.with_options(timeout=5)
    assert quick.chat.completions.create(**ask()).choices
    assert quick.chat.completions.create(**known).choices
    for connection in waiting:
        connection.close()
    eventually(lambda: running.open_requests() == 0)


def test_media_are_encoded_one_at_a_time(assistant, background, monkeypatch, png):
    real, now, most = media_cache.encode, [], []

    def encode(*given):
        now.append(1)
        most.append(len(now))
        time.sleep(0.05)
        now.pop()
        return real(*given)

    monkeypatch.setattr(media_cache, "encode", encode)
    medium = read(png(), assistant.processor, MediaOptions())
    media = media_cache.MediaCache(assistant.model, assistant.processor)
    attached = [
        background(lambda d=digest: media.attach(d, MediaOptions(), lambda: medium))
        for digest in "abcd"
    ]
    for one in attached:
        one.end()
    assert most == [1] * 4


def test_a_warm_up_that_fails_is_told_and_tried_again(api, monkeypatch, caplog):
    serving, tries = api.server.serving, []
    real = serving.begin

    async def begin(*given, **more):
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("only at first")
        return await real(*given, **more)

    monkeypatch.setattr(run, "_WARM_UP_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(serving, "begin", begin)
    monkeypatch.setattr(serving, "answered", False)
    asyncio.run(api.server._warm_up())
    assert serving.answered
    assert "only at first" in caplog.text


def test_whoever_is_answered_makes_the_server_ready(api, ask, monkeypatch):
    monkeypatch.setattr(api.server.serving, "answered", False)
    with api.http() as http:
        assert http.get("/ready").status_code == 503
        http.post("/v1/chat/completions", json=ask()).raise_for_status()
        assert http.get("/ready").status_code == 200


def test_a_model_that_fails_is_a_500_and_the_next_request_is_answered(api, ask, monkeypatch):
    engine = api.server.engine
    real = engine._decode

    def fail() -> None:
        raise RuntimeError("at /secret/path")

    monkeypatch.setattr(engine, "_decode", fail)
    with pytest.raises(openai.InternalServerError) as caught:
        api.client().chat.completions.create(**ask())
    assert "secret" not in str(caught.value)
    with pytest.raises(openai.APIError, match="model failed"):
        list(api.client().chat.completions.create(**ask(), stream=True))
    monkeypatch.setattr(engine, "_decode", real)
    assert api.client().chat.completions.create(**ask()).choices


def test_the_end_waits_for_what_runs_and_takes_nothing_new(start, ask, background, monkeypatch):
    running = start()
    running.slow_down(monkeypatch, 0.02)
    got = threading.Event()
    client = running.client()

    def read() -> str:
        text = ""
        stream = client.chat.completions.create(
            **ask(max_completion_tokens=80), stream=True, stream_options={"include_usage": True}
        )
        for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            got.set()
        assert chunk.usage.completion_tokens == 80
        return text

    with running.http() as http:
        assert http.get("/ready").status_code == 200  # this connection stays open
        reading = background(read)
        assert got.wait(10)
        running.server.serving.closing = True  # what SIGTERM does first
        answer = http.get("/ready")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        answer = http.post("/v1/chat/completions", json=ask())
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    running.uvicorn.should_exit = True
    assert len(reading.end()) > 20
    running.end()
    assert running.server.decoders.process_ids == []
    assert not running.server.files._folder.path.exists()

"""The official client against the server: one answer, streamed or not, about every kind of part."""

import base64
import json

import openai
import pytest

from video_llama.engine.request import TokenLogprob
from video_llama.errors import PromptTooLongError
from video_llama.server.protocol import ChatRequest
from video_llama.server.replies import _logprobs


@pytest.fixture(scope="module")
def client(api):
    return api.client()


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def video(url: str) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}


@pytest.fixture(scope="module")
def film(clip_path, data_url) -> str:
    return data_url(clip_path.read_bytes(), "video/mp4")


@pytest.fixture(scope="module")
def wav(tmp_path_factory, write_clip) -> bytes:
    path = write_clip(tmp_path_factory.mktemp("sound") / "tone.wav", picture=False)
    return path.read_bytes()


def test_the_answer_is_that_of_a_conversation(client, ask, assistant, clip_path, film):
    said = client.chat.completions.create(**ask(video(film)))
    expected = assistant.chat(clip_path).answer("What?", max_new_tokens=12)
    assert said.choices[0].message.content == expected.text
    assert said.choices[0].message.role == "assistant"
    assert said.choices[0].finish_reason == expected.finish_reason
    assert said.object == "chat.completion"
    assert said.model == "tiny"
    assert said.usage.prompt_tokens == expected.tokens.prompt
    assert said.usage.completion_tokens == expected.tokens.generated
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens


def test_a_stream_is_the_same_answer(client, ask, film):
    whole = client.chat.completions.create(**ask(video(film)))
    stream = client.chat.completions.create(
        **ask(video(film)), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == whole.choices[0].finish_reason
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_stream_on_the_wire(api, ask):
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json=ask(stream=True))
    events = answer.text.split("\n\n")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    first = json.loads(events[0].removeprefix("data: "))
    assert "usage" not in first  # unless it was asked for
    assert first["choices"][0]["finish_reason"] is None


def test_every_kind_of_part(client, ask, film, wav, png, data_url):
    sound = base64.b64encode(wav).decode()
    parts = {
        "picture": image(data_url(png())),
        "video": video(film),
        "sound of a video": {"type": "audio_url", "audio_url": {"url": film}},
        "sound": {"type": "audio_url", "audio_url": {"url": data_url(wav, "audio/wav")}},
        "input": {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        "file": {"type": "file", "file": {"file_data": film, "filename": "a.mp4"}},
        "frames": video(
            "data:video/jpeg;base64," + ",".join([base64.b64encode(png()).decode()] * 3)
        ),
    }
    prompts = {}
    for name, part in parts.items():
        said = client.chat.completions.create(**ask({**part, "uuid": "mine"}))
        prompts[name] = said.usage.prompt_tokens
    assert prompts["file"] == prompts["video"]  # seen and heard
    assert prompts["sound of a video"] == prompts["sound"] == prompts["input"]
    assert prompts["sound"] < prompts["picture"] < prompts["video"]


def test_uploaded_files(client, ask, film, clip_path, api):
    uploaded = client.files.create(file=clip_path, purpose="vision")
    assert (uploaded.bytes, uploaded.filename) == (clip_path.stat().st_size, clip_path.name)
    assert uploaded.expires_at - uploaded.created_at == 24 * 3600
    expected = client.chat.completions.create(**ask(video(film))).choices[0].message.content
    for part in ({"type": "file", "file": {"file_id": uploaded.id}}, video(uploaded.id)):
        said = client.chat.completions.create(**ask(part))
        assert said.choices[0].message.content == expected
    assert [file.id for file in client.files.list().data] == [uploaded.id]
    assert client.files.retrieve(uploaded.id).id == uploaded.id
    assert client.files.delete(uploaded.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(uploaded.id)
    with pytest.raises(openai.NotFoundError, match="expired"):
        client.chat.completions.create(**ask(video(uploaded.id)))


def test_a_file_may_expire_sooner(client, clip_path):
    with clip_path.open("rb") as file:
        uploaded = client.files.create(
            file=file,
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    assert uploaded.expires_at - uploaded.created_at == 3600
    client.files.delete(uploaded.id)


def test_files_are_listed_as_they_are_asked_for(client):
    purposes = ("vision", "user_data", "vision", "vision")
    ids = [
        client.files.create(file=(f"{number}.png", b"x"), purpose=purpose).id
        for number, purpose in enumerate(purposes)
    ]

    def listed(**options) -> list[str]:
        return [ids.index(file.id) for file in client.files.list(**options)]  # page by page

    assert listed() == [3, 2, 1, 0]
    assert listed(order="asc", limit=3) == [0, 1, 2, 3]
    assert listed(purpose="vision", limit=1) == [3, 2, 0]
    assert listed(after=ids[2]) == [1, 0]
    first = client.files.list(limit=3)
    assert (len(first.data), first.has_more) == (3, True)
    for name, value in {
        "purpose": "fine-tune",
        "limit": 0,
        "order": "up",
        "after": "file-1",
        "before": ids[0],
    }.items():
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.list(extra_query={name: value})
        assert caught.value.param == name
    for name in ids:
        client.files.delete(name)


def test_how_media_are_read(client, ask, film, assistant, clip_path):
    def tokens(**extra):
        body = ask(video(film), logprobs=True)
        said = client.chat.completions.create(**body, extra_body=extra)
        return said.usage.prompt_tokens, [t.logprob for t in said.choices[0].logprobs.content]

    plain = tokens()
    deaf = tokens(mm_processor_kwargs={"use_audio_in_video": False})
    assert deaf[0] < plain[0]
    some = [
        tokens(media_io_kwargs={"video": reading})
        for reading in ({"num_frames": 2}, {"fps": 2}, {"fps": 120, "num_frames": 2})
    ]
    assert some[0][1] == pytest.approx(some[1][1], abs=1e-4)  # of one second
    assert some[0][1] == pytest.approx(some[2][1], abs=1e-4)
    assert some[0][1] != pytest.approx(plain[1], abs=1e-4)


def test_films_that_are_files_are_not_listened_to_either(client, ask, film, wav, data_url):
    def tokens(media: str, *, sound: bool) -> int:
        part = {"type": "file", "file": {"file_data": media, "filename": "a"}}
        extra = {"mm_processor_kwargs": {"use_audio_in_video": sound}}
        return client.chat.completions.create(**ask(part), extra_body=extra).usage.prompt_tokens

    assert tokens(film, sound=False) < tokens(film, sound=True)
    sound = data_url(wav, "audio/wav")
    assert tokens(sound, sound=False) == tokens(sound, sound=True)


def test_bodies_that_are_not_said_to_be_json(api, ask):
    with api.http() as http:
        told = http.post("/v1/chat/completions", content=json.dumps(ask()).encode())
        assert told.status_code == 400
        assert "Content-Type: application/json" in told.json()["error"]["message"]
        assert http.post("/v1/chat/completions").json()["error"]["message"] == "the body is empty"


def test_what_is_wrong_with_a_list_of_stops(client, ask):
    for stop, said in ((["x"] * 17, "at most"), ([3], "string")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**ask(), stop=stop)
        assert caught.value.param.startswith("stop")
        assert said in caught.value.message


def test_probes_may_ask_for_no_body(api):
    with api.http() as http:
        assert http.head("/health").status_code == 200


def test_a_clip_is_encoded_once_whoever_asks(api, client, ask, film):
    client.chat.completions.create(**ask(video(film)))
    before = api.server.serving.state()
    for text in ("What?", "And then?", "Who?"):
        client.chat.completions.create(**ask(video(film), text=text))
    after = api.server.serving.state()
    assert after["feature_cache_misses_total"] == before["feature_cache_misses_total"]
    assert after["feature_cache_hits_total"] == before["feature_cache_hits_total"] + 3


def test_a_second_turn_goes_on_from_the_first(client, ask, film, assistant, clip_path):
    first = client.chat.completions.create(**ask(video(film)))
    body = ask(video(film))
    body["messages"] += [first.choices[0].message, {"role": "user", "content": "And?"}]
    second = client.chat.completions.create(**body)
    chat = assistant.chat(clip_path)
    chat.ask("What?", max_new_tokens=12)
    assert second.choices[0].message.content == chat.ask("And?", max_new_tokens=12)
    reused = second.usage.prompt_tokens_details.cached_tokens
    assert reused > 0.5 * first.usage.prompt_tokens


def test_an_answer_goes_back_as_the_client_keeps_it(client, api, ask):
    first = client.chat.completions.create(**ask()).choices[0].message
    body = ask()
    body["messages"] += [first.model_dump(), {"role": "user", "content": "And?"}]
    assert client.chat.completions.create(**body).choices
    body["messages"][1]["annotations"] = []
    assert client.chat.completions.create(**body).choices
    body["messages"][1]["annotations"] = [{"type": "url_citation"}]
    assert refused(api, body)[1]["param"] == "messages.1.annotations"


def test_bytes_of_a_part_of_a_character_are_not_made_up():
    tokens = [TokenLogprob(1, "\ufffd", -1.0, (TokenLogprob(2, "é", -1.0),))]
    told = _logprobs(tokens).content[0]
    assert (told.bytes, told.top_logprobs[0].bytes) == (None, [0xC3, 0xA9])


def test_several_choices(client, ask):
    hot = {"temperature": 1.5, "seed": 3, "n": 3}
    said = client.chat.completions.create(**ask(**hot))
    texts = [choice.message.content for choice in said.choices]
    assert [choice.index for choice in said.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    again = client.chat.completions.create(**ask(**hot))
    assert texts == [choice.message.content for choice in again.choices]
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**ask(**hot), stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert said.usage.completion_tokens <= 3 * 12


def test_stop_texts_end_an_answer(client, ask):
    whole = client.chat.completions.create(**ask()).choices[0].message.content
    for stop in (whole[4], [whole[4]]):
        choice = client.chat.completions.create(**ask(stop=stop)).choices[0]
        assert choice.message.content == whole.split(whole[4])[0].strip()
        assert choice.finish_reason == "stop"


def test_max_tokens_by_either_name(client, ask):
    for name in ("max_tokens", "max_completion_tokens"):
        body = ask(max_completion_tokens=None)
        said = client.chat.completions.create(**{**body, name: 3})
        assert said.usage.completion_tokens <= 3


def test_logprobs(client, ask):
    said = client.chat.completions.create(**ask(logprobs=True, top_logprobs=2))
    tokens = said.choices[0].logprobs.content
    assert len(tokens) == said.usage.completion_tokens
    for token in tokens:
        assert len(token.top_logprobs) == 2
        assert token.logprob <= 0
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)  # the likeliest
    streamed = [
        token
        for chunk in client.chat.completions.create(
            **ask(logprobs=True, top_logprobs=2), stream=True
        )
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    assert client.chat.completions.create(**ask()).choices[0].logprobs is None


def test_system_and_developer_messages(client, ask):
    plain = client.chat.completions.create(**ask())
    for role in ("system", "developer"):
        body = ask()
        body["messages"].insert(0, {"role": role, "content": "Be brief."})
        told = client.chat.completions.create(**body)
        assert told.usage.prompt_tokens > plain.usage.prompt_tokens


def test_warnings_tell_what_was_not_used(api, ask, tmp_path, write_clip, data_url):
    mute = write_clip(tmp_path / "mute.mkv", tone=None)
    with api.http() as http:
        body = ask(video(data_url(mute.read_bytes())))
        answer = http.post("/v1/chat/completions", json=body).json()
    assert any("no sound" in warning for warning in answer["warnings"])


def test_models(client):
    assert [model.id for model in client.models.list().data] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "video-llama"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


# Refusals


def refused(api, body: dict) -> tuple[int, dict]:
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", []),
        ("tool_choice", "auto"),
        ("functions", []),
        ("logit_bias", {}),
        ("best_of", 2),
        ("no_such_field", 1),
        ("text", "a"),
        ("parts", []),
        ("body", {}),
    ],
)
def test_unknown_fields_are_refused_by_name(api, ask, field, value):
    status, error = refused(api, {**ask(), field: value})
    assert (status, error["code"], error["param"]) == (400, "unknown_field", field)
    assert field in error["message"]


def test_unknown_fields_are_refused_inside_too(api, ask, png, data_url):
    part = image(data_url(png()))
    part["image_url"]["max_pixels"] = 1
    status, error = refused(api, ask(part))
    assert (status, error["code"]) == (400, "unknown_field")
    assert error["param"] == "messages.0.content.0.image_url.max_pixels"
    status, error = refused(api, ask(media_io_kwargs={"video": {"frames": 2}}))
    assert error["param"] == "media_io_kwargs.video.frames"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "text"}]}, "content.0.text"),
        ({"role": "system", "content": [{"type": "text"}]}, "content.0.text"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "parts": 1}]},
            "content.0.parts",
        ),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "content.0.text"),
        ({"role": "user", "content": "a", "body": 1}, "body"),
        ({"role": "user"}, "content"),
        ({"role": "user", "content": 1}, "content"),
    ],
)
def test_fields_of_messages_have_their_own_names(api, ask, message, param):
    status, error = refused(api, {**ask(), "messages": [message]})
    assert (status, error["param"]) == (400, f"messages.0.{param}")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"stop": [""]}, "stop"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "a"}] * 300}, "messages"),
        ({"media_io_kwargs": {"video": {"num_frames": 999}}}, "media_io_kwargs.video.num_frames"),
        ({"media_io_kwargs": {"video": {"fps": 0}}}, "media_io_kwargs.video.fps"),
    ],
)
def test_bad_values_name_their_field(api, ask, changes, param):
    status, error = refused(api, ask(**changes) | changes)
    assert (status, error["param"]) == (400, param)


def test_bodies_that_are_none(api):
    with api.http() as http:
        for content in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"model": NaN}'):
            headers = {"content-type": "application/json"}
            answer = http.post("/v1/chat/completions", content=content, headers=headers)
            assert answer.status_code == 400, content[:20]
            assert "message" in answer.json()["error"]


def test_another_model_is_not_found(api, ask):
    status, error = refused(api, ask(model="gpt-5"))
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


def test_a_conversation_that_does_not_fit(api, ask):
    status, error = refused(api, ask(text="x" * 3000))
    assert (status, error["code"]) == (400, "context_length_exceeded")


def test_texts_that_cannot_fit_are_not_tokenised(api, ask, assistant, monkeypatch):
    """Of gigabytes and minutes that it would take, nobody would have anything."""
    monkeypatch.setattr("video_llama.server.serving.write_prompt", None)
    status, error = refused(api, ask(text="x" * 900_000))
    assert (status, error["code"]) == (400, "context_length_exceeded")
    with pytest.raises(PromptTooLongError, match="900,000 characters"):
        assistant.chat().ask("x" * 900_000)


def test_nothing_asked_for_may_be_written_out(client, api, ask):
    nothing = dict.fromkeys(("tools", "tool_choice", "logit_bias", "stop", "seed", "store"))
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json={**ask(), **nothing})
        assert answer.status_code == 200
        answer = http.post("/v1/chat/completions", json={**ask(), "store": False})
        assert answer.status_code == 200
    assert refused(api, {**ask(), "store": True})[1]["param"] == "store"


def test_too_many_media(api, ask, png, data_url):
    parts = [image(data_url(png()))] * 17
    assert refused(api, ask(*parts))[1]["code"] == "too_many_media"


def test_an_unbounded_uuid(api, ask, png, data_url):
    part = {**image(data_url(png())), "uuid": "x" * 10_000}
    status, error = refused(api, ask(part))
    assert status == 400
    assert error["param"].endswith("uuid")


def test_equal_uuids_are_not_equal_media(client, ask, png, data_url):
    answers = []
    for colour in ("red", "blue"):
        part = {**image(data_url(png(colour=colour))), "uuid": "same"}
        said = client.chat.completions.create(**ask(part, logprobs=True))
        answers.append([token.logprob for token in said.choices[0].logprobs.content])
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("file:///etc/passwd", "forbidden_source"),
        ("/etc/passwd", "forbidden_source"),
        ("http://127.0.0.1/a.mp4", "forbidden_source"),
        ("http://169.254.169.254/latest/meta-data/", "forbidden_source"),
        ("http://[::ffff:127.0.0.1]/a", "forbidden_source"),
        ("https://example.org/a.mp4", "forbidden_source"),
        ("data:video/mp4;base64,bm90IG1lZGlh", "unsupported_media"),
        ("data:video/mp4;base64,", "media_not_found"),
        ("data:video/mp4;base64,!", "unsupported_media"),
        ("data:video/mp4;base64,I0VYVE0zVQpmaWxlOi8vL2V0Yy9wYXNzd2QK", "forbidden_source"),
        ("data:video/jpeg;base64," + ",".join(["AAAA"] * 5000), "media_limit"),
    ],
)
def test_media_that_are_not_let_in(api, ask, url, code):
    status, error = refused(api, ask(video(url)))
    assert (status, error["code"]) == (422, code)
    assert error["param"] == "messages.0.content.0"
    for told in ("passwd", "127.0.0.1", "169.254", "Traceback", "Error", "0x"):
        assert told not in error["message"]


def test_failures_of_media_are_counted_by_cause(api, ask):
    refused(api, ask(video("file:///etc/passwd")))
    with api.http() as http:
        text = http.get("/metrics").text
    assert 'video_llama_media_failures_total{cause="forbidden_source"}' in text
    assert 'video_llama_requests_total{status="422"}' in text
    assert 'video_llama_media_seconds_count{step="decode"}' in text
    assert "video_llama_time_to_first_token_seconds_count" in text
    assert "video_llama_feature_cache_hits_total" in text
    assert "passwd" not in text


def test_no_place_is_lost_by_refusals(api, eventually):
    eventually(lambda: api.open_requests() == 0)


def test_the_published_example_is_accepted():
    ChatRequest.model_validate_json("""
        {"model": "m", "messages": [{"role": "user", "content": [
           {"type": "text", "text": "What happens?"},
           {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}, "uuid": "u"},
           {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
           {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,aa"}},
           {"type": "input_audio", "input_audio": {"data": "aa", "format": "wav"}}]}],
         "max_completion_tokens": 256, "stream": true, "stream_options": {"include_usage": true},
         "mm_processor_kwargs": {"use_audio_in_video": true},
         "media_io_kwargs": {"video": {"num_frames": 32, "fps": 2}}}""")

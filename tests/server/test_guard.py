"""Keys, host names and sizes: what is checked before a request is read."""

import errno
import hmac
import io
import json
import shutil
import socket
import time

import openai
import pytest
from starlette.datastructures import Headers, UploadFile

from video_llama.server.files import StoragePolicy
from video_llama.server.guard import Guard, GuardPolicy
from video_llama.server.web.door import COOKIE, Door, mark_of

KEYS = ("first-key-123", "second-key-456")


@pytest.fixture(scope="module")
def locked(start):
    return start(
        guard=GuardPolicy(keys=KEYS, body_bytes=200_000, upload_bytes=300_000, body_seconds=1.0),
        storage=StoragePolicy(file_bytes=250_000),
    )


PATHS = (
    "/ready",
    "/metrics",
    "/version",
    "/openapi.json",
    "/v1/models",
    "/v1/models/tiny",
    "/v1/files",
    "/v1/files/file-1",
    "/v1/chat/completions",
    "/",
    "/docs",
    "//v1/models",
    "/v1/../v1/models",
    "/health/",
    "/health/../metrics",
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", "Basic first-key-123", "first-key-123", "Bearer é"]
)
def test_nothing_is_open_without_a_key_but_health(locked, path, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with locked.http() as http:
        answer = http.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert http.get("/health", headers=headers).json() == {"status": "ok"}


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens_everything(locked, key, ask):
    client = locked.client(key)
    assert client.models.list().data[0].id == "tiny"
    assert client.chat.completions.create(**ask()).choices
    with locked.http(headers={"Authorization": f"Bearer {key}"}) as http:
        assert http.get("/ready").json() == {"status": "ready"}
        assert http.get("/version").json()["version"]


def test_a_wrong_key_is_an_authentication_error(locked):
    with pytest.raises(openai.AuthenticationError):
        locked.client("wrong-key").models.list()


def test_keys_are_compared_in_constant_time(locked, monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b))
    with locked.http() as http:
        for key in (KEYS[0], KEYS[1], "wrong"):
            compared.clear()
            http.get("/version", headers={"Authorization": f"Bearer {key}"})
            assert len(compared) == len(KEYS)  # also behind the one that fits


def test_files_belong_to_a_key(locked):
    mine, other = (locked.client(key) for key in KEYS)
    uploaded = mine.files.create(file=("a.png", b"content"), purpose="vision")
    assert other.files.list().data == []
    for call in (other.files.retrieve, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(uploaded.id)
    assert mine.files.delete(uploaded.id).deleted


# Sizes


def key() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[0]}", "Content-Type": "application/json"}


def test_bodies_that_are_too_large(locked, ask):
    large = json.dumps(ask(text="x" * 300_000)).encode()
    with locked.http() as http:
        for content in (large, iter([large])):  # with its length told, and in chunks without
            answer = http.post("/v1/chat/completions", content=content, headers=key())
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "too_large"


def test_uploads_that_are_too_large(locked):
    client = locked.client(KEYS[0])
    for size in (260_000, 400_000):  # refused by the store, and by the size of the body
        with pytest.raises(openai.APIStatusError) as caught:
            client.files.create(file=io.BytesIO(bytes(size)), purpose="vision")
        assert caught.value.status_code == 413
        assert "make the file smaller" in caught.value.message


def test_forms_are_strict(locked):
    with locked.http(headers={"Authorization": f"Bearer {KEYS[0]}"}) as http:
        files = {"file": ("a", b"x")}
        for data, param in (
            ({}, "purpose"),
            ({"purpose": "fine-tune"}, "purpose"),
            ({"purpose": "vision", "extra": "1"}, "extra"),
            ({"purpose": "vision", "expires_after[seconds]": "0"}, "expires_after[seconds]"),
            ({"purpose": "vision", "expires_after[anchor]": "now"}, "expires_after[anchor]"),
        ):
            answer = http.post("/v1/files", files=files, data=data)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert http.post("/v1/files", data={"purpose": "vision"}).status_code == 400


def test_a_body_that_drips_is_not_waited_for(locked):
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEYS[0]}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", locked.port)) as connection:
        connection.sendall(head.encode())
        started = time.monotonic()
        connection.settimeout(0.2)
        said = b""
        while time.monotonic() - started < 5 and b"}}" not in said:
            try:
                connection.sendall(b" ")
                said += connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
    assert said.startswith(b"HTTP/1.1 408")
    assert b"too_slow" in said


def test_an_upload_for_which_the_disk_has_no_room(locked, monkeypatch):
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    client = locked.client(KEYS[0])
    for owner, name in ((shutil, "copyfileobj"), (UploadFile, "write")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, write)
            with pytest.raises(openai.InternalServerError) as caught:
                client.files.create(file=io.BytesIO(b"content"), purpose="vision")
        assert (caught.value.status_code, caught.value.code) == (503, "storage_full")
        assert caught.value.response.headers["retry-after"]
    assert client.files.list().data == []


def test_bodies_in_flight_are_bounded(start, ask, monkeypatch, eventually):
    narrow = start(guard=GuardPolicy(body_bytes=200_000, bodies=1))
    narrow.slow_down(monkeypatch)
    large = json.dumps(ask(stream=True, max_completion_tokens=600)).encode() + b" " * 150_000
    headers = {"Content-Type": "application/json"}
    sent = {"url": "/v1/chat/completions", "headers": headers}
    with narrow.http() as http, narrow.http() as holder:
        with holder.stream("POST", content=large, **sent) as held:
            assert held.status_code == 200
            for content in (large, iter([large])):  # by its length, and while it comes
                answer = http.post(content=content, **sent)
                assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
                assert answer.headers["retry-after"]
            assert http.post(sent["url"], json=ask(max_completion_tokens=1)).is_success
        eventually(lambda: narrow.open_requests() == 0)
        with http.stream("POST", content=large, **sent) as answer:
            assert answer.status_code == 200


def test_whatever_is_refused_is_counted_once(locked, ask):
    def counted() -> dict[str, float]:
        samples = next(iter(locked.server.serving.metrics.requests.collect())).samples
        return {s.labels["status"]: s.value for s in samples if s.name.endswith("_total")}

    before, path = counted(), "/v1/chat/completions"
    with locked.http() as http:
        http.post(path, json=ask())  # 401
        http.post(path, json={}, headers=key())  # 400
        http.post(path, json=ask(model="other"), headers=key())  # 404
        http.post(path, content=iter([bytes(300_000)]), headers=key())  # 413
        http.post(path, content=bytes(300_000), headers=key())
        http.post(path, json=ask(), headers=key())
        http.get(path, headers=key())  # no such request
        http.get("/v1/models", headers=key())
    after = counted()
    new = {status: value - before.get(status, 0) for status, value in after.items()}
    assert {status: value for status, value in new.items() if value} == {
        "200": 1,
        "400": 1,
        "401": 1,
        "404": 1,
        "413": 2,
    }


@pytest.mark.parametrize(
    ("origin", "host", "opens"),
    [
        ("https://video.example", "video.example", True),
        ("https://video.example", "video.example:443", True),
        ("http://video.example:80", "video.example", True),
        ("http://video.example:8000", "video.example:8000", True),
        ("https://video.example", "video.example:80", False),
        ("https://other.example", "video.example", False),
        ("null", "video.example", False),
    ],
)
def test_a_cookie_is_taken_from_its_own_site_alone(origin, host, opens):
    """Behind a proxy too, which may add the port that goes without saying."""
    door = Door([mark_of("key")])
    door._owners[mark_of("session")] = "owner"
    headers = Headers({"origin": origin, "host": host, "cookie": f"{COOKIE}=session"})
    assert door.owner(headers) == ("owner" if opens else None)


# Without keys


def test_a_page_of_another_site_is_not_answered(api):
    with api.http() as http:
        assert http.get("/version").status_code == 200
        for headers in (
            {"Host": "evil.example"},  # a name that was made to lead here
            {"Host": f"evil.example:{api.port}"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Host": "127.0.0.1.evil.example"},
        ):
            answer = http.get("/version", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_host")
        for headers in (
            {"Host": f"localhost:{api.port}", "Origin": f"http://localhost:{api.port}"},
            {"Host": f"[::1]:{api.port}"},
        ):
            assert http.get("/version", headers=headers).status_code == 200


def test_the_page_of_a_framework_that_fetches_from_elsewhere_is_off(api):
    with api.http() as http:
        for path in ("/docs", "/redoc"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "bad_request")
        assert http.delete("/version").status_code == 405


def test_a_form_that_any_page_may_send_is_no_request(api, ask):
    with api.http() as http:
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            answer = http.post(
                "/v1/chat/completions",
                content=json.dumps(ask()),
                headers={"Content-Type": kind},
            )
            assert answer.status_code == 400


def test_the_words_of_faults_are_not_told(api, ask, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("/secret/path at 0x7f0000000000")

    monkeypatch.setattr(type(api.server.serving), "begin", fail)
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json=ask())
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "0x7f" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    with api.http() as http:
        assert 'video_llama_requests_total{status="500"}' in http.get("/metrics").text


def test_the_guard_is_in_front_of_web_sockets_too():
    import asyncio

    sent = []

    async def app(*_: object) -> None:
        sent.append("reached")

    async def send(message: dict) -> None:
        sent.append(message["type"])

    guard = Guard(app, GuardPolicy(keys=KEYS))
    scope = {"type": "websocket", "path": "/", "headers": []}
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    assert sent == ["websocket.close"]

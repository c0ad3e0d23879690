"""`video-llama serve`: what it refuses to start with, and how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from video_llama import cli_serve
from video_llama.server import run as server_run
from video_llama.server.run import default_name

KEY = "a-key-of-tests"


def test_other_machines_want_a_key(run, monkeypatch) -> None:
    monkeypatch.delenv(cli_serve.KEY_VARIABLE, raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        status, out, err = run("serve", "--host", host)
        assert (status, out) == (1, "")
        assert "--api-key" in err
        assert len(err.splitlines()) == 1


def test_short_keys_are_refused(run, monkeypatch) -> None:
    monkeypatch.delenv(cli_serve.KEY_VARIABLE, raising=False)
    assert "8 characters" in run("serve", "--api-key", "short")[2]
    monkeypatch.setenv(cli_serve.KEY_VARIABLE, "long-enough,short")
    assert "8 characters" in run("serve")[2]


def test_empty_keys_are_no_open_door(run, monkeypatch) -> None:
    monkeypatch.delenv(cli_serve.KEY_VARIABLE, raising=False)
    assert "--api-key is empty" in run("serve", "--api-key", " \n")[2]
    monkeypatch.setenv(cli_serve.KEY_VARIABLE, " , ")
    assert "holds no key" in run("serve")[2]


def test_keys_come_from_options_and_the_environment(monkeypatch) -> None:
    monkeypatch.setenv(cli_serve.KEY_VARIABLE, " second-key , third-key ,, first-key")
    keys = cli_serve._keys(["first-key"])
    assert keys == ("first-key", "second-key", "third-key")
    cli_serve._require_key("0.0.0.0", keys, without_key=False)
    cli_serve._require_key("0.0.0.0", (), without_key=True)


def test_keys_are_not_left_to_processes_that_are_started(monkeypatch) -> None:
    monkeypatch.setenv(cli_serve.KEY_VARIABLE, "second-key")
    assert cli_serve._keys([" first-key\n"]) == ("first-key", "second-key")
    assert cli_serve.KEY_VARIABLE not in os.environ


def test_keys_that_no_header_can_bring_are_refused(run, monkeypatch) -> None:
    monkeypatch.delenv(cli_serve.KEY_VARIABLE, raising=False)
    for key in ("ключ-сервера", "a-key\x07of-tests"):
        assert "ASCII" in run("serve", "--api-key", key)[2]


def test_what_is_set_reaches_its_part(run, monkeypatch, tiny_model_dir: Path) -> None:
    policies = []
    monkeypatch.setattr(server_run, "Server", lambda _, policy: policies.append(policy))
    monkeypatch.setattr(server_run, "serve", lambda *_: None)
    options = "--max-upload 300 --max-duration 7200 --fetch-seconds 60 --cache-memory 2"
    status, _, err = run("serve", tiny_model_dir, *options.split(), "--kept-memory", "0")
    assert (status, err) == (0, "")
    (policy,) = policies
    assert (policy.cache_bytes, policy.kept_bytes) == (2 << 30, 0)
    assert policy.storage.file_bytes == policy.gate.sources.max_download == 300 << 20
    assert policy.guard.upload_bytes > 300 << 20
    film, sound = policy.gate.limits["file"], policy.gate.limits["audio"]
    assert (film.bytes, film.duration, film.samples) == (300 << 20, 7200, 7200 * 96_000)
    assert (sound.bytes, sound.duration) == (25 << 20, 600)
    assert policy.gate.fetch_seconds == {"image": 10, "video": 60, "audio": 20, "file": 60}


def test_this_machine_alone() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1"):
        assert cli_serve.is_loopback(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", ""):
        assert not cli_serve.is_loopback(host)


def test_a_folder_that_is_not_there(run, tmp_path: Path, tiny_model_dir: Path) -> None:
    status, _, err = run("serve", tiny_model_dir, "--allow-folder", tmp_path / "absent")
    assert status == 1
    assert "no folder" in err


def test_a_folder_for_features_that_cannot_be(run, tmp_path: Path, tiny_model_dir: Path) -> None:
    taken = tmp_path / "file"
    taken.touch()
    status, _, err = run("serve", tiny_model_dir, "--feature-folder", taken)
    assert status == 1
    assert "may be written to" in err
    assert len(err.splitlines()) == 1


def test_a_name_is_never_a_path() -> None:
    assert default_name("/home/somebody/models/mine") == "mine"
    assert default_name("nano") == "nano"
    assert default_name("somebody/model") == "model"


@pytest.fixture
def process(tiny_model_dir: Path, tmp_path: Path, eventually) -> Iterator[Callable[[], tuple]]:
    """Starts a server of its own process; gives it and a client once it is ready."""
    command = [sys.executable, "-m", "video_llama", "serve", str(tiny_model_dir)]
    options = ["--port", "0", "--name", "tiny", "--decoders", "1"]
    kept = ["--feature-folder", str(tmp_path / "features")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", cli_serve.KEY_VARIABLE: KEY}
    with contextlib.ExitStack() as stack:

        def start() -> tuple[subprocess.Popen, httpx.Client]:
            started = subprocess.Popen(
                [*command, *options, *kept], stderr=subprocess.PIPE, text=True, env=environment
            )
            stack.enter_context(started)
            stack.callback(started.kill)
            assert started.stderr is not None
            line = started.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            headers = {"Authorization": f"Bearer {KEY}"}
            http = httpx.Client(base_url=found[0], headers=headers, timeout=60)
            stack.enter_context(http)
            eventually(lambda: http.get("/ready").status_code == 200, 60)
            return started, http

        yield start


def test_a_folder_of_features_outlives_the_server(process, ask, png, data_url):
    body = ask({"type": "image_url", "image_url": {"url": data_url(png())}})
    answers, found = [], []
    for _ in range(2):
        started, http = process()
        said = http.post("/v1/chat/completions", json=body).raise_for_status()
        answers.append(said.json()["choices"][0]["message"]["content"])
        lines = http.get("/metrics").text.splitlines()
        name = "video_llama_feature_cache_misses_total "
        found += [float(line.removeprefix(name)) for line in lines if line.startswith(name)]
        started.terminate()
        assert started.wait(30) == 0
    assert found == [2, 0]  # the picture, and the one a server warms up with
    assert answers[0] == answers[1]


def test_a_body_that_does_not_come_does_not_hold_its_end_up(process):
    started, http = process()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n\r\n{{"
    )
    with socket.create_connection(("127.0.0.1", http.base_url.port)) as half:
        half.sendall(head.encode())
        time.sleep(0.5)
        started.terminate()
        assert started.wait(20) == 0
        assert b"503" in half.recv(100)


def test_sigterm_ends_it_after_the_answers_that_run(process, ask, png, data_url):
    started, http = process()
    part = {"type": "image_url", "image_url": {"url": data_url(png())}}
    body = ask(part, max_completion_tokens=400, stream=True)
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        assert first["model"] == "tiny"
        started.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert started.wait(30) == 0
    assert "Traceback" not in started.stderr.read()

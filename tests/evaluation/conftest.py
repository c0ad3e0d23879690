"""A model that answers, benchmarks of a few files, and an endpoint that judges."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from video_llama.chat import VideoLlama
from video_llama.evaluation.results import describe_model
from video_llama.evaluation.runner import ModelFacts


@pytest.fixture(scope="session")
def assistant(tiny_model_dir: Path) -> VideoLlama:
    return VideoLlama.load(tiny_model_dir)


@pytest.fixture(scope="session")
def facts(tiny_model_dir: Path) -> ModelFacts:
    return ModelFacts("tiny", describe_model(tiny_model_dir))


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[[str, Any], Path]:
    """`write_json(name, value)` below the test's folder; a list of lines for `*.jsonl`."""

    def write(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = value if path.suffix == ".jsonl" else [value]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., Path]) -> Path:
    """Three videos (one of them silent), a picture, a sound, and a file that is no media."""
    folder = tmp_path_factory.mktemp("films")
    write_clip(folder / "one.mkv", tone=440.0)
    write_clip(folder / "two.mkv", tone=None, seconds=0.5)
    write_clip(folder / "three.mkv", tone=880.0, seconds=2.0)
    write_clip(folder / "sound.wav", tone=300.0, picture=False)
    Image.new("RGB", (40, 30), (200, 30, 30)).save(folder / "picture.png")
    (folder / "broken.mp4").write_text("no film at all")
    return folder


REFUSAL = b'{"error": {"message": "too odd"}}'


class Endpoint:
    """A stand-in for an OpenAI-compatible server. `replies` are given in turn, the last for ever:
    a text to say, a status to fail with, or a function of the request."""

    def __init__(self) -> None:
        self.replies: list[Any] = ['{"correct": "yes", "score": 5}']
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        endpoint, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.requests.append({"path": self.path, **body})
                    endpoint.keys.append(self.headers.get("Authorization"))
                    some = endpoint.replies
                    reply = some.pop(0) if len(some) > 1 else some[0]
                status, held = 200, reply(body) if callable(reply) else reply
                if isinstance(held, int):
                    status, held = held, ""
                choice = {"message": {"role": "assistant", "content": held}}
                answer = {"model": "judge-of-tests", "choices": [choice]}
                raw = json.dumps(answer).encode() if status == 200 else REFUSAL
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                if status == 429:
                    self.send_header("Retry-After", "7")
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()

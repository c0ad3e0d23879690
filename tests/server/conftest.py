"""A running server with the tiny model, and the processes that decode for it."""

import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from openai import OpenAI
from PIL import Image

from video_llama.chat import VideoLlama
from video_llama.server.decoding import DecodingPool
from video_llama.server.run import GracefulServer, Server, ServerPolicy
from video_llama.server.serving import ServingPolicy


@pytest.fixture(scope="session")
def assistant(tiny_model_dir: Path) -> VideoLlama:
    return VideoLlama.load(tiny_model_dir, device="cpu")


@pytest.fixture(scope="session")
def decoders(assistant: VideoLlama) -> Iterator[DecodingPool]:
    pool = DecodingPool(assistant.processor, workers=1)
    yield pool
    pool.close()


def png(width: int = 32, height: int = 24, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session", name="png")
def _png_fixture() -> Callable[..., bytes]:
    """`png(width, height, colour)`."""
    return png


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="session", name="data_url")
def _data_url_fixture() -> Callable[..., str]:
    """`data_url(content, kind)`."""
    return data_url


class Background(threading.Thread):
    """Runs something, and keeps what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 (looked at by the test)
            self.error = error

    def end(self, timeout: float = 20.0) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "it did not end"
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture(scope="session")
def background() -> Callable[[Callable[[], Any]], Background]:
    """`background(work)` runs it in a thread; `.end()` gives its result."""
    return Background


def eventually(test: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


@pytest.fixture(scope="session", name="eventually")
def _eventually_fixture() -> Callable[..., None]:
    """`eventually(test, seconds)`."""
    return eventually


class Running:
    """A server that listens on this machine.

    Attributes:
        server: its parts.
        url: without a path.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        config = uvicorn.Config(
            server.app, lifespan="on", log_level="warning", timeout_graceful_shutdown=10
        )
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.uvicorn = GracefulServer(config, server.serving)
        self._thread = Background(lambda: self.uvicorn.run([self._listening]))
        eventually(lambda: server.serving.answered or not self._thread.is_alive(), 60)

    def client(self, key: str = "no key", **options: Any) -> OpenAI:
        """The official client."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def http(self, **options: Any) -> httpx.Client:
        """Any client."""
        return httpx.Client(base_url=self.url, timeout=20, **options)

    def open_requests(self) -> float:
        return self.server.serving.state()["requests_open"]

    def running(self) -> float:
        state = self.server.serving.state()
        return state["requests_running"] + state["requests_waiting"]

    def slow_down(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.03) -> None:
        """Let every token take so long, and no answer end by itself."""
        engine = self.server.engine
        real = engine._decode
        monkeypatch.setattr(engine, "_decode", lambda: (time.sleep(seconds), real()))
        monkeypatch.setattr(VideoLlama, "stop_ids", frozenset())

    def hold(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        """`let(count)`: so many tokens may come now, and no answer ends by itself."""
        engine, allowed = self.server.engine, threading.Semaphore(0)
        real = engine._decode
        monkeypatch.setattr(engine, "_decode", lambda: (allowed.acquire(timeout=30), real()))
        monkeypatch.setattr(VideoLlama, "stop_ids", frozenset())
        return allowed.release

    def end(self) -> None:
        self.uvicorn.should_exit = True
        self._thread.end()
        self._listening.close()


@pytest.fixture(scope="session")
def start(assistant: VideoLlama) -> Iterator[Callable[..., Running]]:
    """`start(serving={...}, guard=..., ...)` starts a server; it ends with the tests.

    The model is shared, what it remembers of media is not: each server has its clips decoded.
    """
    started: list[Running] = []

    def begin(serving: dict[str, Any] | None = None, **parts: Any) -> Running:
        policy = ServerPolicy(
            serving=ServingPolicy(name="tiny", **(serving or {})), decoders=1, **parts
        )
        assistant.media.features.clear()
        started.append(Running(Server(assistant, policy)))
        return started[-1]

    yield begin
    for running in started:
        running.end()


@pytest.fixture(scope="session")
def api(start: Callable[..., Running]) -> Running:
    """A server with nothing special."""
    return start()


def ask(*parts: dict[str, Any], text: str = "What?", **options: Any) -> dict[str, Any]:
    """The body of a request with media."""
    content = [*parts, {"type": "text", "text": text}]
    settings = {"model": "tiny", "max_completion_tokens": 12, **options}
    return {**settings, "messages": [{"role": "user", "content": content}]}


@pytest.fixture(scope="session", name="ask")
def _ask_fixture() -> Callable[..., dict[str, Any]]:
    """`ask(*parts, text, **options)`."""
    return ask

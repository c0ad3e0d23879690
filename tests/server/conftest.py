"""A running server with the tiny model, and the processes that decode for it."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from video_llama.chat import VideoLlama
from video_llama.server.decoding import DecodingPool


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

"""A server put together, and run until it is told to end."""

import asyncio
import base64
import contextlib
import io
import logging
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image

from video_llama.chat import VideoLlama
from video_llama.engine.features import FeatureCache, FeatureFiles
from video_llama.errors import OptionError
from video_llama.server.app import make_app
from video_llama.server.decoding import DecodingPool
from video_llama.server.files import FileStore, StoragePolicy
from video_llama.server.gate import GatePolicy, MediaGate
from video_llama.server.guard import GuardPolicy
from video_llama.server.protocol import ChatRequest
from video_llama.server.refusal import SWEPT_EVERY, Refusal
from video_llama.server.serving import Serving, ServingPolicy

if TYPE_CHECKING:
    from video_llama.server.web.mount import MountedPage

_LOG = logging.getLogger("video_llama.server")
_GIGABYTE = 1 << 30
_CACHE_SHARE, _KEPT_SHARE = 0.5, 0.1  # the rest is for encoders, and for passes
_WARM_UP_PAUSES = (1.0, 5.0, 20.0, 60.0)  # seconds after each try that was in vain
_DRAIN = 60.0  # seconds that answers may still take after SIGTERM


@dataclass(frozen=True)
class ServerPolicy:
    """Everything that can be set about a server.

    Attributes:
        serving, gate, storage, guard: of those parts.
        slots: answers that the model writes at the same time.
        decoders: media that are decoded at the same time.
        decoder_bytes: memory for each of them.
        cache_bytes: keys and values of answers that are written.
        kept_bytes: of those that were, for prompts that begin alike. None, both: as the engine has
            it; on an accelerator half and a tenth of the memory that is free beside the weights.
        drain_seconds: that answers may still take after SIGTERM.
        page: there is a page at `/`; that needs gradio.
    """

    serving: ServingPolicy
    gate: GatePolicy = field(default_factory=GatePolicy)
    storage: StoragePolicy = field(default_factory=StoragePolicy)
    guard: GuardPolicy = field(default_factory=GuardPolicy)
    slots: int = 16
    decoders: int = 2
    decoder_bytes: int = 4 * _GIGABYTE
    cache_bytes: int | None = None
    kept_bytes: int | None = None
    drain_seconds: float = _DRAIN
    page: bool = False


class Server:
    """A model with everything that serves it. Ends with `close`.

    Attributes:
        serving: answers requests.
        app: the ASGI application.
    """

    def __init__(self, assistant: VideoLlama, policy: ServerPolicy) -> None:
        self.policy = policy
        self._served = False
        with contextlib.ExitStack() as made:
            self._make(assistant, policy, made)
            made.pop_all()

    def _make(
        self, assistant: VideoLlama, policy: ServerPolicy, made: contextlib.ExitStack
    ) -> None:
        cache_bytes, kept_bytes = _shares(assistant.model.device)
        self.engine = assistant.make_engine(
            slots=policy.slots,
            max_waiting=max(0, policy.serving.places - policy.slots),
            cache_bytes=cache_bytes if policy.cache_bytes is None else policy.cache_bytes,
            kept_bytes=kept_bytes if policy.kept_bytes is None else policy.kept_bytes,
        )
        made.callback(self.engine.shutdown, drain=False)
        self.files = FileStore(policy.storage)
        made.callback(self.files.close)
        self.decoders = DecodingPool(
            assistant.processor, workers=policy.decoders, memory=policy.decoder_bytes
        )
        made.callback(self.decoders.close)
        assistant.engine = self.engine  # one for conversations of this process, too
        self.serving = Serving(
            assistant,
            self.engine,
            MediaGate(policy.gate, self.files),
            self.decoders,
            policy.serving,
        )
        self.app = make_app(
            self.serving,
            self.files,
            replace(policy.guard, page=policy.page),
            started=int(time.time()),
            lifespan=self._lifespan,
        )
        self._page = self._mount_page(assistant) if policy.page else None

    def claim(self) -> None:
        """Note that it is being served. Raises OptionError if it has been already."""
        if self._served:
            raise OptionError("this server has ended; make a new one")
        self._served = True

    def close(self) -> None:
        """End everything; what still runs is cut off."""
        self.serving.close()
        self.engine.shutdown(drain=False, timeout=self.policy.drain_seconds)
        self.decoders.close()
        self.files.close()
        if self._page is not None:
            self._page.close()

    def _mount_page(self, assistant: VideoLlama) -> "MountedPage":
        from video_llama.server.web.mount import mount_page  # gradio takes seconds to import

        return mount_page(self.app, self.serving, self.files, assistant.processor)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        works = [self._warm_up(), self._sweep()]
        if self._page is not None:
            works.append(self._page.watch())
        tasks = [asyncio.create_task(work) for work in works]
        yield
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                _LOG.error("a fault beside the routes", exc_info=result)
        await asyncio.to_thread(self.close)

    async def _warm_up(self) -> None:
        """Answer a question about a picture, through every part; then the server is ready."""
        for pause in _WARM_UP_PAUSES:
            try:
                await self._answer_once()
            except Refusal as refusal:
                _LOG.error("the model does not answer: %s", refusal.message)
            except Exception:  # noqa: BLE001 (told, and tried again)
                _LOG.exception("the model does not answer")
            if self.serving.answered:  # perhaps somebody else's question was
                return
            await asyncio.sleep(pause)

    async def _answer_once(self) -> None:
        reply = await self.serving.begin(warm_up_request(self.serving.policy.name), owner="")
        try:
            async for _ in reply.events():
                pass
        finally:
            reply.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEPT_EVERY)
            await asyncio.to_thread(self.files.sweep)
            if self._page is not None:
                await asyncio.to_thread(self._page.sweep)


def _shares(device: torch.device) -> tuple[int | None, int | None]:
    """Bytes of an accelerator for the keys and values of answers that run, and that ran."""
    if device.type != "cuda":
        return None, None
    free, _ = torch.cuda.mem_get_info(device)
    return int(_CACHE_SHARE * free), int(_KEPT_SHARE * free)


def warm_up_request(model: str) -> ChatRequest:
    """A question about a small grey picture."""
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(picture, "PNG")
    url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is this?"},
    ]
    messages = [{"role": "user", "content": parts}]
    return ChatRequest.model_validate(
        {"model": model, "messages": messages, "max_completion_tokens": 2}
    )


class GracefulServer(uvicorn.Server):
    """Uvicorn, which tells the routes at once that it was asked to end.

    Connections that are open then may still ask whether the server is ready, and must hear no.
    """

    def __init__(self, config: uvicorn.Config, serving: Serving) -> None:
        super().__init__(config)
        self._serving = serving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT came."""
        self._serving.closing = True
        super().handle_exit(sig, frame)


def serve(server: Server, host: str, port: int, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then finish what runs, and end.

    Args:
        server: is closed at the end.
        host, port: to listen on; 0 is any free port.
        listening: is told the address once it can be reached.

    Raises:
        OSError: the port is taken, or the host is not this machine.
        OptionError: this is not the main thread, which alone hears signals, or the server has been
            served already: make a new one.
    """
    if threading.current_thread() is not threading.main_thread():
        server.close()
        raise OptionError("a server is run by the main thread, which alone hears signals")
    server.claim()
    config = uvicorn.Config(
        server.app,
        timeout_graceful_shutdown=int(server.policy.drain_seconds),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the address of a client
        lifespan="on",
    )
    # Uvicorn sends a signal it has heard once more, when all is done.
    before = {sig: signal.signal(sig, _heard) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        # Bound here: uvicorn would only log that it cannot, and end the process.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family, backlog=512) as bound:
            shown = f"[{host}]" if ":" in host else host
            listening(f"http://{shown}:{bound.getsockname()[1]}")
            GracefulServer(config, server.serving).run([bound])
    finally:
        server.close()
        for sig, handler in before.items():
            signal.signal(sig, handler)


def _heard(sig: int, frame: FrameType | None) -> None:
    """Nothing: the server has ended in good order."""


def open_features(folder: Path | None, max_bytes: int) -> FeatureCache:
    """Where features are kept: in memory, and in a folder if there is one.

    Raises:
        OptionError: the folder cannot be made.
    """
    if folder is None:
        return FeatureCache()
    try:
        return FeatureCache(files=FeatureFiles(folder, max_bytes))
    except OSError as error:
        raise OptionError(
            f"{folder} cannot be used: {error.strerror}; name a folder that may be written to"
        ) from error


def default_name(model: str) -> str:
    """What a model is called in requests: never a path of this machine."""
    return Path(model).name or "video-llama"

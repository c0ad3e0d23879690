"""The page among the server's routes: which of gradio's addresses are answered, and how.

Gradio brings many more than the page needs: a proxy, a recorder, an editor, sign-in. What is not
named here is not there.
"""

import asyncio
import contextlib
import os
import re
import time
from pathlib import Path

from fastapi import FastAPI

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.server.files import FileStore
from video_llama.server.refusal import storage_full
from video_llama.server.serving import Serving
from video_llama.server.web.album import Album
from video_llama.server.web.page import CSS, SAMPLES, Page
from video_llama.server.web.talking import Talker
from video_llama.temporary_folder import TemporaryFolder

_LOOK = 0.2  # seconds between looks at whether the server is about to end
_UPLOAD = "/gradio_api/upload"
_BROKEN_OFF = 300.0  # seconds without a byte after which an upload was broken off
_GET = re.compile(
    r"/|/config|/theme\.css|/manifest\.json|/favicon\.ico|/(assets|static)/[^\\]*"
    r"|/gradio_api/(startup-events|theme\.css|queue/data|upload_progress|info)"
    r"|/gradio_api/(heartbeat/[\w-]+|file=(?!https?:)[^\\]*)",
    re.IGNORECASE,
)
_POST = re.compile(r"/gradio_api/(queue/join|cancel|reset|upload)/?")
# The browser is told, too: whatever an answer or a file name says, nothing is fetched elsewhere.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)


class MountedPage:
    """The page, once it is a part of an application. Ends with `close`."""

    def __init__(
        self,
        uploads: TemporaryFolder,
        gradio_app: "gr.routes.App",
        serving: Serving,
        album: Album,
    ) -> None:
        self._uploads = uploads
        self._gradio_app = gradio_app
        self._serving = serving
        self._album = album

    async def watch(self) -> None:
        """Let browsers go when the server is about to end: they would stay connected for ever."""
        while not self._serving.closing:
            await asyncio.sleep(_LOOK)
        self._gradio_app.stop_event.set()

    def sweep(self) -> None:
        """Remove pictures that nobody was shown for long; uploads gradio removes itself."""
        self._album.sweep()

    def close(self) -> None:
        """Remove what was uploaded to the page."""
        self._uploads.close()


def mount_page(
    app: FastAPI, serving: Serving, files: FileStore, processor: VideoLlamaProcessor
) -> MountedPage:
    """Put the page at `/`; everything else of the application stays as it is.

    One page a process: of another one mounted before, uploads are no longer taken.
    """
    folder = TemporaryFolder("video-llama-page-")
    uploads = folder.path
    # Gradio reads this when it is put together, and whenever it checks a file.
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    album = Album(uploads / "seen", files.policy.lifetime)
    talker = Talker(serving, files, processor, album)
    page = Page(talker, processor.num_frames, uploads)
    gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        allowed_paths=[str(SAMPLES)],
        max_file_size=files.policy.file_bytes,
        footer_links=[],
        run_history=False,
        show_error=False,  # gr.Error is shown all the same, the words of other errors are not
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(
            font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
        ),
        css=CSS,
    )
    mounted = app.router.routes.pop()
    assert isinstance(mounted, Mount)
    gradio_app = mounted.app
    assert isinstance(gradio_app, gr.routes.App)
    app.router.routes.append(_PageMount(_Bounded(gradio_app, uploads, files.policy.total_bytes)))
    return MountedPage(folder, gradio_app, serving, album)


class _PageMount(Mount):
    """Matches what the page needs; for all else the application has its own answer."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__("/", app=app)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette has it."""
        if scope["type"] != "http" or not _is_page(scope["method"], scope["path"]):
            return Match.NONE, {}
        return super().matches(scope)


class _Bounded:
    """Around gradio: uploads end where the room does, and pages come with a policy."""

    def __init__(self, app: ASGIApp, uploads: Path, most: int) -> None:
        self._app = app
        self._uploads = uploads
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["path"].rstrip("/") == _UPLOAD:
            await asyncio.to_thread(_remove_broken_off, self._uploads)
            taken = await asyncio.to_thread(_bytes_under, self._uploads)
            if taken > self._most:
                raise storage_full()
        if scope["path"] == "/":
            # "deep_link" would have gradio look for a stored page.
            scope = {**scope, "query_string": b""}

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        with contextlib.suppress(ClientDisconnect):
            await self._app(scope, receive, send_with_policy)


def _is_page(method: str, path: str) -> bool:
    pattern = {"GET": _GET, "HEAD": _GET, "POST": _POST}.get(method)
    return pattern is not None and pattern.fullmatch(path) is not None


def _remove_broken_off(uploads: Path) -> None:
    """Uploads that ended before they were whole: gradio knows nothing of them any more.

    Whole ones lie in folders; one that goes on is written to all the time.
    """
    for path in uploads.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and time.time() - path.stat().st_mtime > _BROKEN_OFF:
                path.unlink()


def _bytes_under(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_size
        except FileNotFoundError:  # it expired just now
            continue
    return found

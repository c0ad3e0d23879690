"""What is checked before a request is read: the key, the host it was sent to, the size of its body.

Plain ASGI, in front of every route, so that no route can be forgotten.
"""

import asyncio
import contextlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from video_llama.server.refusal import Refusal, busy, closing, too_large
from video_llama.server.web.door import LOGIN, Door, mark_of

OPEN_PATHS = frozenset({"/health"})
UPLOAD_PATHS = frozenset({"/v1/files", "/gradio_api/upload"})
MEGABYTE = 1 << 20
# Of a body that is refused, what is read all the same; see `_drain`.
DRAINED_BYTES, DRAINED_SECONDS = 16 * MEGABYTE, 2.0
_LOOK = 0.5  # seconds between looks at whether the server is about to end


@dataclass(frozen=True)
class GuardPolicy:
    """Who is let in, and with how much.

    Attributes:
        keys: any of them opens everything. Without keys everybody on this machine may come in, but
            no web page that somebody there happens to look at:
        names: then requests must be sent to one of these hosts.
        any_name: they need not: other machines are let in without a key, by whatever name.
        body_bytes: of a request; those of an upload:
        upload_bytes: with the form around the file.
        body_seconds: until a body must have arrived.
        bodies: of full size that are held at the same time, until their requests are over; more, if
            they are smaller. As many uploads beside them.
        page: browsers are asked for a key, if there are keys.
    """

    keys: tuple[str, ...] = ()
    names: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
    any_name: bool = False
    body_bytes: int = 64 * MEGABYTE
    upload_bytes: int = 257 * MEGABYTE
    body_seconds: float = 120.0
    bodies: int = 16
    page: bool = False


class RefusedBody(HTTPException):
    """Raised inside a route that reads a body; frameworks pass it on as it is."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.message, refusal.headers)
        self.refusal = refusal


class Guard:
    """The middleware. `scope["state"]["owner"]` becomes a mark of the key that was used.

    Args:
        app: what is behind it.
        policy: who is let in.
        closing: tells whether the server is about to end: bodies are not waited for any more.
    """

    def __init__(
        self, app: ASGIApp, policy: GuardPolicy, closing: Callable[[], bool] = lambda: False
    ) -> None:
        self._app = app
        self._closing = closing
        self._policy = policy
        self._keys = [mark_of(key) for key in policy.keys]
        self._door = Door(self._keys) if policy.keys and policy.page else None
        self._held: Counter[int] = Counter()  # bytes of bodies, by the limit they have

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket" and self._refusal(scope) is not None:
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        if self._door is not None and scope["path"] == LOGIN:
            try:
                with self._bounded(scope, receive) as bounded:
                    await self._door(scope, bounded, send)
            except RefusedBody as error:
                await _response(error.refusal)(scope, receive, send)
            return
        refusal = self._refusal(scope) or self._announced(scope)
        if self._door is not None and refusal is not None and _is_browser(scope, refusal):
            await self._door.form(Headers(scope=scope))(scope, receive, send)
            return
        if refusal is not None:
            await _drain(receive)
            await _response(refusal)(scope, receive, send)
            return
        with self._bounded(scope, receive) as bounded:
            await self._app(scope, bounded, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        if scope["path"] in OPEN_PATHS:
            return None
        if not self._keys:
            scope.setdefault("state", {})["owner"] = ""
            return self._check_names(headers)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = mark_of(key.strip()) if scheme.lower() == "bearer" else b""
        # All are compared, and in constant time: neither which one nor how much of it was right
        # can be measured.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        owner = given.hex() if any(matches) else self._door and self._door.owner(headers)
        if owner is None:
            words = "this server wants a key: Authorization: Bearer KEY"
            return Refusal(401, words, code="invalid_api_key", kind="authentication_error")
        scope.setdefault("state", {})["owner"] = owner
        return None

    def _check_names(self, headers: Headers) -> Refusal | None:
        """Refuse what a web page of somebody else sends, also by a name that it made lead here."""
        sent_to = [_host(headers.get("host", ""))]
        if "origin" in headers:
            sent_to.append(_host(headers["origin"].partition("://")[2]))
        if self._policy.any_name or all(name in self._policy.names for name in sent_to):
            return None
        words = "requests from other sites, or to other names than this server's, are not answered"
        return Refusal(403, words, code="wrong_host", kind="permission_error")

    def _limit(self, scope: Scope) -> int:
        return self._policy.upload_bytes if _is_upload(scope) else self._policy.body_bytes

    def _announced(self, scope: Scope) -> Refusal | None:
        length = Headers(scope=scope).get("content-length", "")
        count, limit = int(length) if length.isdecimal() else 0, self._limit(scope)
        if count > limit:
            return too_large(limit, upload=_is_upload(scope))
        return busy() if count and self._held[limit] + count > limit * self._policy.bodies else None

    @contextlib.contextmanager
    def _bounded(self, scope: Scope, receive: Receive) -> Iterator[Receive]:
        """`receive` that counts, and does not wait for ever for a body.

        What has arrived counts as held until the request is over.
        """
        limit, loop = self._limit(scope), asyncio.get_running_loop()
        upload = _is_upload(scope)
        end = loop.time() + self._policy.body_seconds
        state = {"bytes": 0, "more": True}

        async def bounded() -> Message:
            if not state["more"]:
                return await receive()  # that the asker has gone, whenever
            message = await self._arrived(receive, end)
            count = len(message.get("body", b""))
            state["bytes"] += count
            self._held[limit] += count
            state["more"] = message.get("more_body", False)
            if state["bytes"] > limit:
                raise RefusedBody(too_large(limit, upload=upload))
            if self._held[limit] > limit * self._policy.bodies:
                raise RefusedBody(busy())
            return message

        try:
            yield bounded
        finally:
            self._held[limit] -= state["bytes"]

    async def _arrived(self, receive: Receive, end: float) -> Message:
        """The next part of a body; it is not waited for beyond `end`, nor by a server that ends."""
        loop = asyncio.get_running_loop()
        while not self._closing():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(end, loop.time() + _LOOK)):
                    return await receive()
            if loop.time() >= end:
                seconds = self._policy.body_seconds
                words = f"the request did not arrive within {seconds:g} seconds"
                raise RefusedBody(Refusal(408, words, code="too_slow"))
        raise RefusedBody(closing())


def _is_upload(scope: Scope) -> bool:
    return scope["path"].rstrip("/") in UPLOAD_PATHS


def _is_browser(scope: Scope, refusal: Refusal) -> bool:
    """Whether it is a person who opens the page without a key."""
    accepted = Headers(scope=scope).get("accept", "")
    return refusal.status == 401 and scope["path"] == "/" and "text/html" in accepted


async def _drain(receive: Receive) -> None:
    """Read on for a little while: who is still sending when the connection is closed is told that
    it was reset, and never sees the answer."""
    left, end = DRAINED_BYTES, asyncio.get_running_loop().time() + DRAINED_SECONDS
    with contextlib.suppress(TimeoutError):  # it is told all the same
        async with asyncio.timeout_at(end):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _response(refusal: Refusal) -> JSONResponse:
    headers = {**refusal.headers, "Connection": "close"}
    return JSONResponse(refusal.body, refusal.status, headers)


def _host(netloc: str) -> str:
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""

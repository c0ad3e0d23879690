"""The routes. What they do is in serving.py, files.py and metrics.py."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import metadata
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, File, Form, Query, Request, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from video_llama.errors import FULL_DISK
from video_llama.server.files import FileStore, StoredFile
from video_llama.server.guard import Guard, GuardPolicy, RefusedBody
from video_llama.server.metrics import CHAT, CONTENT_TYPE, GONE, Counted
from video_llama.server.protocol import (
    ChatCompletion,
    ChatRequest,
    ErrorBody,
    FileDeleted,
    FileList,
    FileObject,
    Model,
    ModelList,
    State,
    Version,
)
from video_llama.server.refusal import Refusal, closing, disk_full, fault
from video_llama.server.replies import chunks, completion
from video_llama.server.serving import Reply, Serving

VERSION = metadata.version("video-llama")
_LOG = logging.getLogger("video_llama.server")
_STATUSES = (400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 503)
_PURPOSES = ("vision", "user_data", "assistants")
_LISTING = frozenset({"purpose", "limit", "order", "after"})
_MOST_FILES = 10_000  # of one list, as OpenAI has it
_FORM = frozenset({"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"})
_SLACK = 30.0  # seconds beyond an answer's own for a client that reads slowly
_T = TypeVar("_T")

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def make_app(
    serving: Serving,
    files: FileStore,
    guard: GuardPolicy,
    *,
    started: int,
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """The application.

    Args:
        serving: answers.
        files: uploads.
        guard: who may come in.
        started: when, in seconds since 1970; the model's `created`.
        lifespan: what happens around it.
    """
    bearer = [Security(HTTPBearer(auto_error=False))] if guard.keys else []
    app = FastAPI(
        title="Video-LLaMA",
        version=VERSION,
        docs_url=None,  # that page is fetched from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses={status: {"model": ErrorBody} for status in _STATUSES},
    )
    _add_handlers(app)
    _add_state(app, serving)
    _add_chat(app, serving, started, bearer)
    _add_files(app, files, bearer)
    app.add_middleware(Guard, policy=guard, closing=lambda: serving.closing)
    app.add_middleware(Counted, metrics=serving.metrics)  # around all others
    return app


def _add_chat(app: FastAPI, serving: Serving, started: int, bearer: list[Any]) -> None:
    name = serving.policy.name

    @app.post(CHAT, response_model=ChatCompletion, dependencies=bearer)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation about media."""
        try:
            reply = await _unless_gone(request, serving.begin(body, request.state.owner))
            if body.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                parts = chunks(reply, name, logprobs=bool(body.logprobs), with_usage=usage)
                return _Events(parts, reply, serving.policy.seconds + _SLACK)
            try:
                whole = completion(reply, name, logprobs=bool(body.logprobs))
                answer = await _unless_gone(request, whole)
            finally:
                reply.close()
            return JSONResponse(answer.model_dump())
        except _Gone:
            return Response(status_code=GONE)

    @app.get("/v1/models", dependencies=bearer)
    async def models() -> ModelList:
        """The models that answer here: one."""
        return ModelList(data=[Model(id=name, created=started)])

    @app.get("/v1/models/{model:path}", dependencies=bearer)
    async def model(model: str) -> Model:
        """One model."""
        if model != name:
            raise Refusal(404, "there is no such model here", code="model_not_found", param="model")
        return Model(id=name, created=started)


def _add_files(app: FastAPI, files: FileStore, bearer: list[Any]) -> None:
    @app.post("/v1/files", dependencies=bearer)
    async def upload(
        request: Request,
        file: Annotated[UploadFile, File()],
        purpose: Annotated[str, Form()],
        anchor: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
        seconds: Annotated[int | None, Form(alias="expires_after[seconds]", ge=1)] = None,
    ) -> FileObject:
        """Keep a file for a while, so that questions can be asked about it."""
        unknown = set((await request.form()).keys()) - _FORM
        if unknown:
            raise _bad_field(min(unknown), "there is no such field here", "unknown_field")
        _check_purpose(purpose)
        if anchor not in (None, "created_at"):
            raise _bad_field("expires_after[anchor]", "files expire from 'created_at' on")
        name = file.filename or "upload"
        owner = request.state.owner
        stored = await run_in_threadpool(files.add, owner, file.file, name, purpose, seconds)
        return _file_object(stored)

    @app.get("/v1/files", dependencies=bearer)
    async def list_files(
        request: Request,
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=_MOST_FILES)] = _MOST_FILES,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> FileList:
        """The files of this key, the newest first."""
        unknown = set(request.query_params) - _LISTING
        if unknown:
            raise _bad_field(min(unknown), "there is no such field here", "unknown_field")
        _check_purpose(purpose)
        found = files.list(request.state.owner)
        if order == "asc":
            found.reverse()
        if after is not None:
            ids = [file.id for file in found]
            if after not in ids:
                raise _bad_field("after", "'after' is the id of a file that is kept")
            found = found[ids.index(after) + 1 :]
        found = [file for file in found if purpose in (None, file.purpose)]
        data = [_file_object(file) for file in found[:limit]]
        return FileList(data=data, has_more=len(found) > limit)

    @app.get("/v1/files/{file_id}", dependencies=bearer)
    async def get_file(file_id: str, request: Request) -> FileObject:
        """One file."""
        return _file_object(files.get(request.state.owner, file_id))

    @app.delete("/v1/files/{file_id}", dependencies=bearer)
    async def delete_file(file_id: str, request: Request) -> FileDeleted:
        """Forget a file before it expires."""
        files.remove(request.state.owner, file_id)
        return FileDeleted(id=file_id)


def _add_state(app: FastAPI, serving: Serving) -> None:
    @app.head("/health", include_in_schema=False)  # some probes ask so
    @app.get("/health")
    async def health() -> State:
        """Whether the server lives. Open to everybody."""
        return State(status="ok")

    @app.get("/ready")
    async def ready() -> State:
        """Whether it has answered a question, and takes more."""
        if serving.closing:
            raise closing()
        if not serving.answered:
            words = "the model has not answered yet"
            raise Refusal(503, words, code="not_ready", kind="server_error", retry_after=1)
        return State(status="ready")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(serving.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/version")
    async def version() -> Version:
        """Which software answers."""
        return Version(version=VERSION)


def _add_handlers(app: FastAPI) -> None:
    """Every error in OpenAI's shape, and none with more than was meant to be told."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return await refused(request, _validation_refusal(request, error.errors()))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        if isinstance(error, RefusedBody):
            return await refused(_, error.refusal)
        if isinstance(error.__cause__, ClientDisconnect):
            return Response(status_code=GONE)
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL_DISK:
            return await refused(_, disk_full())  # uploads go to the disk while they arrive
        words = {
            404: "there is nothing at this address",
            405: "this address does not take this method",
        }.get(error.status_code, "the request cannot be understood")
        refusal = Refusal(error.status_code, words, code="bad_request")
        return JSONResponse(refusal.body, refusal.status, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        _LOG.error("a fault in a route", exc_info=error)
        return await refused(_, fault())


def _validation_refusal(request: Request, errors: Sequence[dict[str, Any]]) -> Refusal:
    """The first thing that is wrong with a body, by the name of its field."""
    error = errors[0]
    if tuple(error["loc"]) == ("body",) and error["type"] != "json_invalid":
        if error["type"] == "missing":
            return Refusal(400, "the body is empty", code="invalid_json")
        if "json" not in request.headers.get("content-type", ""):
            words = "the body is not said to be JSON; send it with Content-Type: application/json"
            return Refusal(400, words, code="invalid_json")
    if isinstance(error.get("input"), list) and error["type"] == "string_type":
        # What may be a text or a list of them is a list here: what is wrong with that counts.
        error = next((one for one in errors[1:] if one["loc"][1] == error["loc"][1]), error)
    param = _field_name(error["loc"])
    if error["type"] == "extra_forbidden":
        return _bad_field(param, f"the field {param!r} is not known here", "unknown_field")
    if error["type"] == "missing":
        return _bad_field(param, f"the field {param!r} is missing", "missing_field")
    if error["type"] == "json_invalid":
        return Refusal(400, "the body is not JSON", code="invalid_json")
    return _bad_field(param or None, f"{param or 'the body'}: {error['msg']}")


def _field_name(place: Sequence[int | str]) -> str:
    """What a client calls the place of a fault.

    Pydantic puts the names of union members it tried between the steps: the role of a message, the
    form of its content, the type of a part, and the type of a stop.
    """
    steps = list(place[1:])  # after "body", "query" or "path"
    if steps[:1] == ["messages"]:
        of_user = steps[2:3] == ["user"]
        del steps[2:3]
        if steps[2:3] == ["content"]:
            del steps[3:4]
            if of_user:
                del steps[4:5]
    elif steps[:1] == ["stop"]:
        del steps[1:]
    return ".".join(map(str, steps))


def _bad_field(param: str | None, words: str, code: str = "invalid_value") -> Refusal:
    return Refusal(400, words, code=code, param=param)


def _check_purpose(purpose: str | None) -> None:
    if purpose is not None and purpose not in _PURPOSES:
        raise _bad_field("purpose", f"a purpose is one of {', '.join(_PURPOSES)}")


def _file_object(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.size,
        created_at=file.created,
        expires_at=file.expires,
        filename=file.name,
        purpose=file.purpose,
    )


class _Gone(Exception):  # noqa: N818 (nothing went wrong)
    """The connection was closed by whoever asked."""


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of some work, which ends at once when the connection is closed.

    Raises:
        _Gone: it was.
    """
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise _Gone
    finally:
        leaving.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.wait((doing,))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Events(StreamingResponse):
    """Server-sent events that end, and free the request's place, when the asker goes away."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], reply: Reply, seconds: float) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._reply = reply
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """As ASGI has it."""
        sending = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            # Whoever reads too slowly is left, too: sending waits for them.
            both = (sending, leaving)
            await asyncio.wait(both, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._reply.close()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

"""From a request to the pieces of its answer: media, prompt, engine. No web framework.

A request takes a place when it comes and frees it when its `Reply` is closed, whatever happens in
between; there are so many places and no more. Media are fetched, decoded and encoded in threads and
processes of their own while the engine writes the answers of others; what needs none of that (a
text, a medium that is known) never waits for a thread behind those that do.
"""

import asyncio
import logging
import math
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from video_llama.answer import MediaUse
from video_llama.attachment import Attachment, MediaOptions, ReadMedium
from video_llama.chat import VideoLlama
from video_llama.engine.request import Finished, Piece, Request
from video_llama.errors import BusyError, MediaError, VideoLlamaError
from video_llama.generation import GenerationOptions
from video_llama.prompt import Prompt, write_prompt
from video_llama.server.asking import Conversation, MediaRef, read_messages
from video_llama.server.decoding import Cancelled, DecodingPool
from video_llama.server.gate import MediaGate, Opened
from video_llama.server.metrics import Metrics
from video_llama.server.options import check_fields, generation_options, reading_options
from video_llama.server.protocol import ChatRequest
from video_llama.server.refusal import (
    Refusal,
    busy,
    closing,
    media_code,
    overdue,
    refusal_of,
)

if TYPE_CHECKING:
    import torch

    from video_llama.engine.engine import Engine
    from video_llama.engine.handle import Handle

_LOG = logging.getLogger("video_llama.server")
_QUICK_THREADS = 4  # for what takes milliseconds
_LONGEST_WAIT = 60  # seconds a client is told to wait at most
_T = TypeVar("_T")


@dataclass(frozen=True)
class ServingPolicy:
    """Bounds of requests.

    Attributes:
        name: what the model is called here.
        places: requests that are taken at the same time, those that wait included.
        media: of one conversation.
        seconds: from a request's arrival until its answer must be there; then it ends where it is,
            and is refused if it has not begun.
        media_threads: media that are decoded or waited for at the same time, and as many that are
            fetched.
    """

    name: str
    places: int = 64
    media: int = 16
    seconds: float = 300.0
    media_threads: int = 16


@dataclass
class Look:
    """A wish to see what the model is shown, beside the answer.

    Attributes:
        numbers: of the media in the conversation, in its order, that are to be shown.
        found: the frames and clips of those, once they are there.
    """

    numbers: frozenset[int]
    found: dict[int, ReadMedium] = field(default_factory=dict)

    def show(self, number: int) -> Callable[[ReadMedium], None] | None:
        """Takes that medium, None if it is not to be shown."""
        return partial(self.found.__setitem__, number) if number in self.numbers else None


@dataclass
class Reply:
    """An answer on its way: one or several choices, and what is known before the first word.

    Attributes:
        id, created: as OpenAI has them.
        handles: one for each choice.
        warnings: what a user should know of the media.
        uses: which of its streams the model gets of each medium of the conversation.
        arrived: when the request came, by `time.perf_counter`.
        answered: is told when the model has answered.
    """

    id: str
    created: int
    handles: "list[Handle]"
    warnings: tuple[str, ...]
    uses: tuple[MediaUse, ...]
    arrived: float
    answered: Callable[[], None]
    _close: Callable[[], None]
    _metrics: Metrics
    _closed: bool = field(default=False)

    async def events(self) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """Pieces and ends, each with the number of its choice, as they come.

        Raises:
            Refusal: the engine failed or is shut down, or time was over before it began.
        """
        arrived: asyncio.Queue[tuple[int, Piece | Finished | Exception]] = asyncio.Queue()

        async def pump(number: int, handle: "Handle") -> None:
            try:
                async for event in handle.astream():
                    arrived.put_nowait((number, event))
            except Exception as error:  # noqa: BLE001 (raised where it is waited for)
                arrived.put_nowait((number, error))

        pumps = [asyncio.create_task(pump(*each)) for each in enumerate(self.handles)]
        left, before = len(pumps), self.arrived
        try:
            while left:
                number, event = await arrived.get()
                if isinstance(event, Exception):
                    raise _engine_refusal(event)
                now = time.perf_counter()
                if isinstance(event, Finished):
                    left -= 1
                    if event.reason == "cancelled":
                        raise closing()
                    if event.reason == "deadline" and not event.usage.completion_tokens:
                        raise overdue()
                    self.answered()
                elif before == self.arrived:
                    self._metrics.first_token.observe(now - before)
                    before = now
                elif len(pumps) == 1:
                    self._metrics.between_tokens.observe(now - before)
                    before = now
                yield number, event
        finally:
            for task in pumps:
                task.cancel()

    def close(self) -> None:
        """Free the place; choices that are still written are cancelled. May be called again."""
        if not self._closed:
            self._closed = True
            for handle in self.handles:
                handle.cancel()
            self._close()


class Serving:
    """Answers requests about media with one model.

    Attributes:
        policy: bounds.
        metrics: what is counted.
        closing: no new requests are taken.
        answered: whether an answer has been given: the server is ready.
    """

    def __init__(
        self,
        assistant: VideoLlama,
        engine: "Engine",
        gate: MediaGate,
        decoders: DecodingPool,
        policy: ServingPolicy,
    ) -> None:
        self.policy = policy
        self.metrics = Metrics()
        self.closing = False
        self.answered = False
        self._assistant = assistant
        self._engine = engine
        self._gate = gate
        self._decoders = decoders
        self._quick = ThreadPoolExecutor(_QUICK_THREADS, "quick")
        self._fetching = ThreadPoolExecutor(policy.media_threads, "fetch")
        self._reading = ThreadPoolExecutor(policy.media_threads, "media")
        self._open = 0
        self._seconds = 1.0  # that an answer takes, of late
        self.metrics.watch(self)

    def state(self) -> dict[str, float]:
        """What it is doing now, for `metrics`."""
        engine, files = self._engine.metrics(), self._gate.files
        return {
            "requests_open": self._open,
            "requests_running": engine.running,
            "requests_waiting": engine.waiting,
            # Of the engine: answers whose askers have gone took as much work.
            "prompt_tokens_total": engine.prompt_tokens,
            "reused_tokens_total": engine.reused_tokens,
            "completion_tokens_total": engine.generated_tokens,
            "files_bytes": files.taken if files is not None else 0,
            "feature_cache_hits_total": self._assistant.media.hits,
            "feature_cache_misses_total": self._assistant.media.misses,
            "decoders_replaced_total": self._decoders.replaced,
        }

    async def begin(self, request: ChatRequest, owner: str, look: Look | None = None) -> Reply:
        """Read a request's media and hand its prompt to the engine.

        Cancelling this frees the request's place at once. Media that are to be shown are decoded
        even if their features are known.

        Raises:
            Refusal: it is not answered, and why.
        """
        arrived, end = time.perf_counter(), time.monotonic() + self.policy.seconds
        options, conversation = self._check(request)
        gone = threading.Event()
        free = self._take_place(gone, arrived)
        handles: list[Handle] = []
        try:
            async with asyncio.timeout(self.policy.seconds):
                attachments = []
                for number, reference in enumerate(conversation.media):
                    show = None if look is None else look.show(number)
                    attachments.append(await self._attach(reference, request, owner, gone, show))
                write = partial(self._write, conversation, attachments, options, gone)
                prompt, options = await _in_thread(self._quick, write)
            embed = partial(_embed, prompt, self._assistant, attachments)
            for number in range(request.n or 1):
                handles.append(self._submit(request, prompt, embed, options, number, end))
        except BaseException as error:
            for handle in handles:
                handle.cancel()
            free()
            if isinstance(error, TimeoutError):
                raise overdue() from None
            if isinstance(error, VideoLlamaError):
                raise self._refusal(error) from None
            raise
        return Reply(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            handles=handles,
            warnings=tuple(text for one in attachments for text in one.warnings),
            uses=tuple(one.use for one in attachments),
            arrived=arrived,
            answered=self._note_answer,
            _close=free,
            _metrics=self.metrics,
        )

    def close(self) -> None:
        """No more media."""
        self.closing = True
        for threads in (self._quick, self._fetching, self._reading):
            threads.shutdown(wait=False, cancel_futures=True)

    def _note_answer(self) -> None:
        self.answered = True

    def _check(self, request: ChatRequest) -> tuple[GenerationOptions, Conversation]:
        """What can be refused without looking at any medium."""
        if request.model != self.policy.name:
            words = f"there is no such model here; there is {self.policy.name!r}"
            raise Refusal(404, words, code="model_not_found", param="model")
        check_fields(request)
        conversation = read_messages(request.messages)
        if (request.n or 1) > self.policy.places:
            words = f"n is {request.n}, and {self.policy.places} answers have a place here"
            raise Refusal(400, words, code="invalid_value", param="n")
        if len(conversation.media) > self.policy.media:
            words = f"a conversation may have {self.policy.media} media at most"
            raise Refusal(400, words, code="too_many_media", param="messages")
        try:
            return generation_options(request), conversation
        except VideoLlamaError as error:
            raise refusal_of(error) from None

    def _take_place(self, gone: threading.Event, arrived: float) -> Callable[[], None]:
        """A place, and the way to free it."""
        if self.closing:
            raise closing()
        if self._open >= self.policy.places:
            raise self._busy()
        self._open += 1

        def free() -> None:
            gone.set()
            self._open -= 1
            self._seconds += 0.1 * (time.perf_counter() - arrived - self._seconds)

        return free

    def _busy(self) -> Refusal:
        """With the seconds until about a tenth of the queue is done."""
        return busy(min(_LONGEST_WAIT, math.ceil(self._seconds / 10)))

    def _refusal(self, error: VideoLlamaError) -> Refusal:
        return self._busy() if isinstance(error, BusyError) else refusal_of(error)

    async def _attach(
        self,
        reference: MediaRef,
        request: ChatRequest,
        owner: str,
        gone: threading.Event,
        show: Callable[[ReadMedium], None] | None,
    ) -> Attachment:
        slow = reference.place[:4].lower() == "http"
        threads = self._fetching if slow else self._quick
        try:
            opened = await _in_thread(threads, partial(self._let_in, reference, owner, gone))
            options = reading_options(request, reference, opened)
            if show is None:
                find = partial(self._assistant.media.find, opened.digest, options)
                known = await _in_thread(self._quick, find)
                if known is not None:
                    return known
            read = partial(self._read, opened, options, gone, show)
            return await _in_thread(self._reading, read)
        except MediaError as error:
            self.metrics.media_failures.labels(media_code(error)).inc()
            raise refusal_of(error, reference.param) from None

    def _let_in(self, reference: MediaRef, owner: str, gone: threading.Event) -> Opened:
        """In a thread: through the gate."""
        if gone.is_set():
            raise Cancelled
        started = time.perf_counter()
        try:
            opened = self._gate.open(reference.kind, reference.place, owner=owner, gone=gone)
        except MediaError:
            if gone.is_set():  # a download was given up
                raise Cancelled from None
            raise
        self._observe("open", time.perf_counter() - started)
        return opened

    def _read(
        self,
        opened: Opened,
        options: MediaOptions,
        gone: threading.Event,
        show: Callable[[ReadMedium], None] | None,
    ) -> Attachment:
        """In a thread: decode and encode a medium, or wait for whoever does."""
        decode = partial(self._decode, opened, options, gone)
        if show is not None:
            medium = decode()
            show(medium)
            decode = partial(_same, medium)
        while True:
            try:
                attachment = self._assistant.media.attach(opened.digest, options, decode)
            except Cancelled:
                # Perhaps it was another asker of the same medium who went away.
                if gone.is_set():
                    raise
            else:
                break
        if attachment.encode_seconds:  # 0 for what was known
            self._observe("encode", attachment.encode_seconds)
        return attachment

    def _decode(self, opened: Opened, options: MediaOptions, gone: threading.Event) -> ReadMedium:
        started = time.perf_counter()
        medium = self._decoders.read(opened.source, options, gone)
        self._observe("decode", time.perf_counter() - started)
        return medium

    def _observe(self, step: str, seconds: float) -> None:
        self.metrics.media_seconds.labels(step).observe(seconds)

    def _write(
        self,
        conversation: Conversation,
        attachments: list[Attachment],
        options: GenerationOptions,
        gone: threading.Event,
    ) -> tuple[Prompt, GenerationOptions]:
        """The prompt, and options that say how long its answer may be."""
        if gone.is_set():
            raise Cancelled
        processor = self._assistant.processor
        self._assistant.check_length(conversation.turns, conversation.system)
        prompt = write_prompt(conversation.turns, conversation.system, attachments, processor)
        room = self._assistant.room(len(prompt.keys), options.max_new_tokens)
        return prompt, replace(options, max_new_tokens=room)

    def _submit(
        self,
        request: ChatRequest,
        prompt: Prompt,
        embed: "Callable[[], torch.Tensor]",
        options: GenerationOptions,
        number: int,
        end: float,
    ) -> "Handle":
        if options.seed is not None:
            options = replace(options, seed=options.seed + number)  # choices differ
        return self._engine.submit(
            Request(
                id=f"{id(prompt):x}-{number}",
                keys=prompt.keys,
                embeddings=embed,
                options=options,
                stop_ids=self._assistant.stop_ids,
                deadline=end,
                logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            )
        )


async def _in_thread(threads: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _same(medium: ReadMedium) -> ReadMedium:
    return medium


def _embed(prompt: Prompt, assistant: VideoLlama, attachments: list[Attachment]) -> "torch.Tensor":
    """(L, D)."""
    return prompt.embed(assistant.model, attachments)[0]


def _engine_refusal(error: Exception) -> Refusal:
    if not isinstance(error, VideoLlamaError):
        _LOG.error("the engine failed", exc_info=error)
        return Refusal(500, "the model failed on this request", code="fault", kind="server_error")
    return refusal_of(error)

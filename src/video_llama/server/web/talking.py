"""A question and its answer, step by step. No gradio here.

The page asks as the API does: files go to the store of uploads, from there through the gate to the
decoders, and the question takes one of the server's places.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

from pydantic import ValidationError

from video_llama.engine.request import Finished
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.server.files import FileStore
from video_llama.server.metrics import GONE
from video_llama.server.refusal import Refusal
from video_llama.server.serving import Look, Reply, Serving
from video_llama.server.web.conversation import Medium, Seen, Talk, Turn, Wishes
from video_llama.server.web.seen import see

_PAUSE = 0.08  # seconds between two looks at an answer: more than eyes can follow


class Talker:
    """Answers the questions of the page.

    Args:
        serving: answers.
        files: keeps what was dropped on the page.
        processor: as the model's.
    """

    def __init__(self, serving: Serving, files: FileStore, processor: VideoLlamaProcessor) -> None:
        self.files = files
        self._serving = serving
        self._processor = processor

    async def take(self, owner: str, paths: Sequence[Path]) -> tuple[Medium, ...]:
        """Uploaded files, as media of a conversation.

        Raises:
            Refusal: there is no room, or one is too large or empty.
        """
        return tuple([await asyncio.to_thread(self._take, owner, path) for path in paths])

    def _take(self, owner: str, path: Path) -> Medium:
        with path.open("rb") as content:
            stored = self.files.add(owner, content, path.name, "user_data")
        return Medium(stored.id, path.name, str(path))

    async def answer(self, owner: str, talk: Talk, wishes: Wishes) -> AsyncGenerator[None]:
        """Answer the last question of a conversation; a step whenever there is more to see.

        Whoever leaves early stops it: the place is free at once, and what was said stays.
        """
        turn = talk.turns[-1]
        status = 500  # unless it turns out otherwise
        try:
            async with aclosing(self._answer(owner, talk, wishes)) as steps:
                async for _ in steps:
                    yield
            status = 200
        except (asyncio.CancelledError, GeneratorExit):
            status = GONE
            raise
        except Refusal as refusal:
            status = refusal.status
            turn.fail(refusal.message, refusal.code)
        except ValidationError as error:
            status = 400
            turn.fail(error.errors()[0]["msg"])
        finally:
            if turn.state == "open":
                turn.state = "stopped"
            self._serving.metrics.requests.labels(str(status)).inc()
        yield

    async def _answer(self, owner: str, talk: Talk, wishes: Wishes) -> AsyncGenerator[None]:
        turn, look = talk.turns[-1], Look(talk.new_media())
        request = talk.request(self._serving.policy.name, wishes)
        reply = await self._serving.begin(request, owner, look)
        try:
            turn.warnings = reply.warnings
            turn.seen = await asyncio.to_thread(self._see, talk, reply, look)
            yield
            async for _ in _said(reply, turn):
                yield
        finally:
            reply.close()

    def _see(self, talk: Talk, reply: Reply, look: Look) -> tuple[Seen, ...]:
        return tuple(
            see(medium.name, use, look.found.get(number), self._processor)
            for number, (medium, use) in enumerate(zip(talk.media(), reply.uses, strict=True))
        )


async def _said(reply: Reply, turn: Turn) -> AsyncIterator[None]:
    shown = 0.0
    async for _, event in reply.events():
        if isinstance(event, Finished):
            turn.state = "cut" if event.reason in ("length", "deadline") else "answered"
            return
        turn.answer += event.text
        if time.monotonic() > shown + _PAUSE:
            yield
            shown = time.monotonic()

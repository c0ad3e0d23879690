"""A question and its answer, step by step. No gradio here.

The page asks as the API does: files go to the store of uploads, from there through the gate to the
decoders, and the question takes one of the server's places.
"""

import asyncio
import contextlib
import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from video_llama.answer import MediaUse
from video_llama.engine.request import EndReason, Finished
from video_llama.errors import VideoLlamaError
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.server.files import FileStore
from video_llama.server.metrics import GONE
from video_llama.server.refusal import Refusal, fault, overdue, refusal_of
from video_llama.server.serving import Look, Reply, Serving
from video_llama.server.web.album import Album
from video_llama.server.web.conversation import Medium, Seen, State, Talk, Turn, Wishes
from video_llama.server.web.seen import SeenMedia, see

_LOG = logging.getLogger("video_llama.server")
_PAUSE = 0.08  # seconds between two looks at an answer: more than eyes can follow
_ENDS: dict[EndReason, State] = {"length": "cut", "deadline": "late"}


class Talker:
    """Answers the questions of the page.

    Args:
        serving: answers.
        files: keeps what was dropped on the page.
        processor: as the model's.
        album: shows what was seen.
    """

    def __init__(
        self, serving: Serving, files: FileStore, processor: VideoLlamaProcessor, album: Album
    ) -> None:
        self.files = files
        self._serving = serving
        self._processor = processor
        self._album = album
        self._seen = SeenMedia(album)
        self._lock = threading.Lock()
        self._ids: dict[tuple[str, str], str] = {}  # by owner and digest
        self._users: Counter[tuple[str, str]] = Counter()  # places of conversations that have it

    async def take(self, owner: str, paths: Sequence[Path]) -> tuple[Medium, ...]:
        """Uploaded files, as media of a conversation.

        Raises:
            Refusal: there is no room, one is too large or empty, or a fault, which is logged.
        """
        try:
            return tuple([await asyncio.to_thread(self._take, owner, path) for path in paths])
        except Exception as error:  # noqa: BLE001 (told without its words, and logged)
            raise _refusal(error) from None

    def _take(self, owner: str, path: Path) -> Medium:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        medium = Medium("", path.name, str(path), digest, owner)
        medium = replace(medium, id=self._kept(medium))
        with self._lock:
            self._users[owner, digest] += 1
        return medium

    def _kept(self, medium: Medium) -> str:
        """The id of a file in the store: a content is kept once, and again if it has expired."""
        key = medium.owner, medium.digest
        with self._lock:
            known = self._ids.get(key)
        if known is not None:
            with contextlib.suppress(Refusal):
                return self.files.get(medium.owner, known).id
        with Path(medium.shown).open("rb") as content:
            stored = self.files.add(medium.owner, content, medium.name, "user_data")
        with self._lock:
            self._ids[key] = stored.id
        return stored.id

    def _renew(self, talk: Talk) -> None:
        """What has expired in the store since it was dropped, but not on the page."""
        for turn in talk.turns:
            with contextlib.suppress(FileNotFoundError):  # there neither: the gate says so
                turn.media = tuple([replace(one, id=self._kept(one)) for one in turn.media])

    def forget(self, talk: Talk) -> None:
        """End a conversation: files that no other one has are kept no longer."""
        media = [medium for turn in talk.turns for medium in turn.media]
        talk.turns.clear()
        for medium in media:
            key = medium.owner, medium.digest
            with self._lock:
                self._users[key] -= 1
                unused = self._users[key] <= 0
                if unused:
                    del self._users[key]
                    self._ids.pop(key, None)
            if unused:
                with contextlib.suppress(Refusal):  # it has expired
                    self.files.remove(medium.owner, medium.id)

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
        except Exception as error:  # noqa: BLE001 (told without its words, and logged)
            refusal = _refusal(error)
            status = refusal.status
            turn.fail(refusal.message, refusal.code)
        finally:
            if turn.state == "open":
                turn.state = "stopped"
            self._serving.metrics.requests.labels(str(status)).inc()
        yield

    async def _answer(self, owner: str, talk: Talk, wishes: Wishes) -> AsyncGenerator[None]:
        await asyncio.to_thread(self._renew, talk)
        # All of it now: while it is answered, the conversation may get another question.
        turn, looking = talk.turns[-1], self._look(talk, wishes)
        request = talk.request(self._serving.policy.name, wishes)
        reply = await self._serving.begin(request, owner, looking.look)
        try:
            turn.seen = await asyncio.to_thread(self._see, looking, reply.uses)
            yield
            async for _ in _said(reply, turn):
                yield
        finally:
            reply.close()

    def _look(self, talk: Talk, wishes: Wishes) -> "_Looking":
        media = talk.media()
        keys = [(medium.digest, wishes.frames, wishes.sound) for medium in media]
        known = {
            number: found
            for number in talk.new_media()
            if (found := self._seen.find(keys[number], media[number].name)) is not None
        }
        return _Looking(media, keys, known, Look(talk.new_media() - known.keys()))

    def _see(self, looking: "_Looking", uses: Sequence[MediaUse]) -> tuple[Seen, ...]:
        found = []
        for number, (medium, use) in enumerate(zip(looking.media, uses, strict=True)):
            seen = looking.known.get(number)
            if seen is None:
                read = looking.look.found.get(number)
                seen = see(medium.name, use, read, self._processor, self._album)
            if number in looking.look.found:
                self._seen.keep(looking.keys[number], seen)
            found.append(seen)
        return tuple(found)


@dataclass(frozen=True)
class _Looking:
    """The media of a request, what of the new ones was seen before, and a look at the others.

    `keys` say what a medium is and how it is read.
    """

    media: Sequence[Medium]
    keys: Sequence[Hashable]
    known: dict[int, Seen]
    look: Look


async def _said(reply: Reply, turn: Turn) -> AsyncIterator[None]:
    shown = 0.0
    async for _, event in reply.events():
        if isinstance(event, Finished):
            if event.reason == "deadline" and not turn.answer:
                raise overdue()
            turn.state = _ENDS.get(event.reason, "answered")
            return
        turn.answer += event.text
        if time.monotonic() > shown + _PAUSE:
            yield
            shown = time.monotonic()


def _refusal(error: Exception) -> Refusal:
    """What a person is told of an error. What should not happen is told to the log alone."""
    if isinstance(error, VideoLlamaError):
        return refusal_of(error)
    if isinstance(error, ValidationError):
        return Refusal(400, error.errors()[0]["msg"], code="invalid_value")
    _LOG.error("a fault in the page", exc_info=error)
    return fault()

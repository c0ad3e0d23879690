"""A request on its way: what the engine knows of it beside the scheduler's numbers."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from video_llama.engine.handle import Handle
from video_llama.engine.request import (
    EndReason,
    Failed,
    Finished,
    Piece,
    Request,
    RequestTimings,
    TokenLogprob,
    Usage,
)
from video_llama.engine.sampler import Sampling
from video_llama.engine.scheduler import Task
from video_llama.generation import AnswerText, IdsToText

if TYPE_CHECKING:
    import torch

REMEMBERED_TEXTS = 1 << 16  # decodings of one or two tokens
ANCHORS = 2000  # ids among which there is a word


@dataclass(eq=False, kw_only=True)
class Job(Task):
    """A request, its answer so far and the asker's end.

    Attributes:
        request, handle: see there.
        sampling: how ids are chosen, and those that were.
        keys: of the prompt and of the ids: what the row holds or is to hold.
        to_text, clean: from ids to text, and to the text that is given.
        new_ids, new_logprobs: chosen since the last piece.
        embeddings: of the prompt (L, D), while it is being run.
        queued: when it was given its first row, by `time.monotonic()`.
    """

    request: Request
    handle: Handle
    sampling: Sampling
    to_text: IdsToText
    clean: AnswerText
    keys: list[Hashable] = field(default_factory=list)
    new_ids: list[int] = field(default_factory=list)
    new_logprobs: list[TokenLogprob] = field(default_factory=list)
    embeddings: "torch.Tensor | None" = None
    queued: float | None = None

    def take(self, token: int, logprob: TokenLogprob | None) -> EndReason | None:
        """Take the next id: give the text that is certain; whether this is the end, and why."""
        if not self.generated:
            self.handle.first_token = time.monotonic()
        self.generated += 1
        self.turn += 1
        self.keys.append(token)
        self.new_ids.append(token)
        if logprob is not None:
            self.new_logprobs.append(logprob)
        if token in self.request.stop_ids:
            return "stop"
        piece = self.clean.add(self.to_text.add(token))
        if piece:
            self._give(piece)
        if self.clean.stopped:
            return "stop"
        return "length" if self.generated >= self.max_new_tokens else None

    def finish(self, reason: EndReason) -> None:
        """Give what is left of the text, and say that this is the end."""
        rest = self.clean.add(self.to_text.finish()) + self.clean.finish()
        if rest or self.new_ids:
            self._give(rest)
        now, handle = time.monotonic(), self.handle
        handle.deliver(
            Finished(
                reason,
                Usage(self.prompt_tokens, self.generated, handle.reused_tokens),
                RequestTimings(
                    queued=_since(handle.submitted, self.queued),
                    first_token=_since(handle.submitted, handle.first_token),
                    total=now - handle.submitted,
                ),
            )
        )

    def fail(self, error: BaseException) -> None:
        """Say that it could not be answered."""
        self.handle.deliver(Failed(error))

    def _give(self, text: str) -> None:
        piece = Piece(text, tuple(self.new_ids), tuple(self.new_logprobs))
        self.new_ids.clear()
        self.new_logprobs.clear()
        self.handle.deliver(piece)


def _since(start: float, moment: float | None) -> float | None:
    return None if moment is None else moment - start


class Texts:
    """Ids to text, for all requests of an engine. Short runs of ids, which come again and again,
    are decoded once."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._alone = lru_cache(REMEMBERED_TEXTS)(self._behind_another)
        self._anchor: int | None = None
        self._short = lru_cache(REMEMBERED_TEXTS)(lambda ids: decode(list(ids)))

    def of(self, ids: list[int]) -> str:
        """The text of ids."""
        return self._short(tuple(ids)) if len(ids) <= 2 else self._decode(ids)

    def of_one(self, token: int) -> str:
        """The text of an id as it is within others: where one begins with a space, so does this."""
        return self._alone(token)

    def _behind_another(self, token: int) -> str:
        # Alone, tokenizers as LLaMA's take the space for the one that they put before every text.
        if self._anchor is None:
            words = (one for one in range(ANCHORS) if len(self._decode([one])) > 1)
            self._anchor = next((one for one in words if self._decode([one]).isalpha()), token)
        before, both = self._decode([self._anchor]), self._decode([self._anchor, token])
        return both[len(before) :] if both.startswith(before) else self._decode([token])

"""What is asked of the engine, and what comes back. No tensors are made here.

Legend: L tokens of a prompt, D width of the language model.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from video_llama.errors import OptionError
from video_llama.generation import GenerationOptions

if TYPE_CHECKING:
    import torch

EndReason = Literal["stop", "length", "cancelled", "deadline"]


@dataclass(frozen=True)
class Request:
    """A prompt that wants an answer.

    Attributes:
        id: a name for logs; the engine does not look at it.
        keys: one for each of the L tokens of the prompt: the token's id or, where a medium stands,
            whatever tells it from every other medium, as `(digest, index)`. Equal keys are taken to
            have equal embeddings, so keys and values of other prompts that begin alike are used.
        embeddings: (L, D) on the model's device; or a function that makes them when they are
            needed, so that a request that waits holds none. It may be called again after a
            preemption.
        options: how tokens are chosen; `max_new_tokens` must be set. `stop` ends the answer, beside
            the stop texts of the engine.
        stop_ids: ids that end the answer; such an id is the last one given, and has no text.
        deadline: of `time.monotonic()`; when it passes, the answer ends where it is.
        logprobs: None for none; n for the chosen token and the n likeliest ones, 0 included.

    Raises:
        OptionError: no tokens, no room for an answer, or a negative number of logprobs.
    """

    id: str
    keys: tuple[Hashable, ...]
    embeddings: "torch.Tensor | Callable[[], torch.Tensor]"
    options: GenerationOptions
    stop_ids: frozenset[int] = frozenset()
    deadline: float | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if not self.keys:
            raise OptionError("a request needs a prompt of at least one token")
        if self.options.max_new_tokens is None:
            raise OptionError("a request needs options.max_new_tokens: how long its answer may be")
        if self.logprobs is not None and self.logprobs < 0:
            raise OptionError(f"logprobs must be 0 or more, not {self.logprobs}")

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest answer."""
        assert self.options.max_new_tokens is not None
        return self.options.max_new_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was, before temperature, penalty and cuts.

    Attributes:
        id: of the token.
        text: of the token alone; a broken character shows as U+FFFD.
        logprob: natural logarithm of its probability.
        top: the likeliest tokens in its place, best first, as many as the request asked for.
    """

    id: int
    text: str
    logprob: float
    top: "tuple[TokenLogprob, ...]" = ()


@dataclass(frozen=True)
class Piece:
    """A part of an answer that is certain.

    Attributes:
        text: never empty, except in a last piece that only brings ids (a stop id, a stop text).
        ids: tokens that were chosen since the last piece.
        logprobs: one for each id, when the request asked for them.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of the prompt, of the answer, and those of the prompt that did not have to run."""

    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int


@dataclass(frozen=True)
class RequestTimings:
    """Seconds since the request was submitted; None for what never came.

    Attributes:
        queued: until it was given a row.
        first_token: until its first token was chosen.
        total: until its end.
    """

    queued: float | None
    first_token: float | None
    total: float


@dataclass(frozen=True)
class Finished:
    """The end of an answer: the model's own ("stop"), or of its tokens, its time, its asker."""

    reason: EndReason
    usage: Usage
    timings: RequestTimings


@dataclass(frozen=True)
class Failed:
    """The end of a request that the model could not answer; a handle raises the error."""

    error: BaseException


Event = Piece | Finished | Failed

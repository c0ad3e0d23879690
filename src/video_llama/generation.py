"""How an answer is chosen, and how its ids become text, one at a time."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from video_llama.errors import OptionError

COLDEST = 1e-6  # colder is 0: scores divided by less are no numbers any more
SEEDS = 2**64  # torch has no more
_LARGEST = 1e308
REPLACEMENT = "\ufffd"  # what a tokenizer writes for bytes that are not (yet) a character


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is chosen.

    The default is greedy: the same question about the same media has the same answer. With a
    `temperature` above 0 tokens are drawn, and `seed` makes the draw repeatable.

    Attributes:
        max_new_tokens: tokens of the longest answer; they must fit beside the prompt. None: as many
            as fit, at most 300.
        temperature: 0 takes the likeliest token; 1 draws from the model's own distribution.
        top_p: draw only from the likeliest tokens whose probabilities add up to this; 1 is off.
        top_k: draw only from this many of the likeliest tokens; 0 is off.
        repetition_penalty: above 1, tokens already in the answer become less likely.
        seed: of the draw; None draws differently each time.
        stop: texts that end the answer, besides those of the model's own template.

    Raises:
        OptionError: a value that is not accepted; the message names the field.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # numpy's numbers, as from an array of seeds
            if isinstance(given := getattr(self, field.name), np.generic):
                object.__setattr__(self, field.name, given.item())
        if self.max_new_tokens is not None:
            _require_integer("max_new_tokens", self.max_new_tokens, least=1)
        _require_number("temperature", self.temperature, "0 or more", lambda x: x >= 0)
        if self.temperature < COLDEST:
            object.__setattr__(self, "temperature", 0.0)
        _require_number("top_p", self.top_p, "above 0 and at most 1", lambda x: 0 < x <= 1)
        _require_integer("top_k", self.top_k, least=0)
        _require_number("repetition_penalty", self.repetition_penalty, "above 0", lambda x: x > 0)
        if self.seed is not None:
            _require_integer("seed", self.seed, least=0)
            if self.seed >= SEEDS:
                raise OptionError(f"seed must be below 2**64, not {self.seed}")
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, Sequence) or not all(
            isinstance(text, str) and text for text in stop
        ):
            raise OptionError(f"stop must be texts of at least one character, not {self.stop!r}")
        object.__setattr__(self, "stop", tuple(stop))

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """Options by name.

        Raises:
            OptionError: a name that does not exist, or a value that is not accepted.
        """
        require_names(given, cls)
        return cls(**given)


def require_names(given: Iterable[str], options: type) -> None:
    """Raise OptionError for a name that is no field of a dataclass of options."""
    known = [field.name for field in dataclasses.fields(options)]
    for name in given:
        if name not in known:
            raise OptionError(f"there is no option {name!r} here; there are {', '.join(known)}")


def _require_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name} must be a whole number of {least} or more, not {value!r}")


def _require_number(name: str, value: Any, accepted: str, test: Callable[[float], bool]) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer may be larger than any float.
    if not number or not -_LARGEST < value < _LARGEST or not test(value):
        raise OptionError(f"{name} must be a number {accepted}, not {value!r}")


class IdsToText:
    """Ids to pieces of text, one id at a time.

    A character whose bytes are spread over several tokens comes out when it is whole. Each piece is
    the difference of two decodings that start at the same earlier token, because a token's text
    depends on the one before it (spaces, bytes).
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self._ids: list[int] = []
        self._start = 0  # the first token that is decoded again
        self._given = 0  # tokens whose text has been given

    def add(self, token: int) -> str:
        """The text that has become certain with this token; often a word, sometimes nothing."""
        self._ids.append(token)
        before, now = self._texts()
        if now.endswith(REPLACEMENT) or len(now) <= len(before):
            return ""
        self._start, self._given = self._given, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """What is left, a broken character included."""
        before, now = self._texts()
        self._start = self._given = len(self._ids)
        return now[len(before) :]

    def _texts(self) -> tuple[str, str]:
        before = self.decode(self._ids[self._start : self._given])
        return before, self.decode(self._ids[self._start :])


class AnswerText:
    """Cleans a stream of text: what is let through is never taken back.

    Space around the answer and a speaker's label before it are dropped, and the first stop text
    ends it. Text that could still turn out to be the beginning of any of these is held back. How
    the text is cut into pieces changes nothing.
    """

    def __init__(self, stops: Sequence[str], labels: Sequence[str] = ()) -> None:
        self.stops = tuple(stops)
        self._firsts = {stop[0] for stop in self.stops}
        self.labels = tuple(labels)
        self.stopped = False
        self._begun = False
        self._held = ""

    def add(self, piece: str) -> str:
        """The part of all text so far that is certain now and was not given before."""
        if self._begun and not self.stopped:
            text = self._held + piece
            if self._firsts.isdisjoint(text):  # nothing in it begins a stop text: the usual case
                certain = text.rstrip()
                self._held = text[len(certain) :]
                return certain
        return "".join(self._add_character(character) for character in piece)

    def finish(self) -> str:
        """What was held back and turned out to be text."""
        if not self._begun:
            self._drop_beginning()
        rest, self._held = self._held.rstrip(), ""
        return rest

    def _add_character(self, character: str) -> str:
        if self.stopped:
            return ""
        self._held += character
        for stop in self.stops:
            if self._held.endswith(stop):
                self.stopped = True
                self._held = self._held.removesuffix(stop)
                return self.finish()
        if not self._begun:
            self._drop_beginning()
            if not self._held or any(label.startswith(self._held) for label in self.labels):
                return ""
            self._begun = True
        certain = self._held[: len(self._held) - self._overlap()].rstrip()
        self._held = self._held[len(certain) :]
        return certain

    def _drop_beginning(self) -> None:
        self._held = self._held.lstrip()
        for label in self.labels:
            if self._held.startswith(label):
                self._held = self._held[len(label) :].lstrip()

    def _overlap(self) -> int:
        """Length of the longest end of the held text that begins a stop text."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self.stops):
                return size
        return 0

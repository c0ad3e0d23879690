"""An answer in the making: pieces from the engine, text to the listener."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from video_llama.answer import Answer, FinishReason, MediaUse, Timings, TokenCounts
from video_llama.engine.engine import Engine
from video_llama.engine.handle import Handle
from video_llama.engine.request import Finished, Request
from video_llama.errors import BusyError

# Every other setting of `decode` depends on the tokenizer's files.
PLAIN_DECODING = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@dataclass
class Reply:
    """A question on its way to an answer.

    Attributes:
        question: the text.
        media: numbers of the media that go with it.
        request: what the engine is asked.
        started: when the question was asked, by `time.monotonic`.
        pieces: text that was given.
        generated: tokens that were given.
        handle: the engine's, once it has been asked.
        finish_reason: "cancelled" until it has ended otherwise.
    """

    question: str
    media: tuple[int, ...]
    request: Request
    started: float
    pieces: list[str] = field(default_factory=list)
    generated: int = 0
    handle: Handle | None = None
    finish_reason: FinishReason = "cancelled"

    @property
    def text(self) -> str:
        """What was given so far."""
        return "".join(self.pieces)

    def write(self, engine: Engine, *, at_once: bool) -> Iterator[str]:
        """The pieces of the answer, as soon as each is certain. None is empty.

        With `at_once` they are waited for together: nobody listens before the end. When the
        iterator is closed, the engine stops.
        """
        self.handle = engine.submit(self.request)
        try:
            if at_once:
                self.handle.wait()
            for event in self.handle:
                if isinstance(event, Finished):
                    assert event.reason != "deadline", "a conversation sets no deadline"
                    self.finish_reason = event.reason
                    if event.reason == "cancelled":  # not by who listens: the engine is ending
                        raise BusyError("the model was shut down before its answer was whole")
                    return
                self.generated += len(event.ids)
                if event.text:
                    self.pieces.append(event.text)
                    yield event.text
        finally:
            self.handle.cancel()

    def answer(
        self, *, decode: float, encode: float, media: tuple[MediaUse, ...], warnings: list[str]
    ) -> Answer:
        """The answer with its facts; `decode` and `encode` are the seconds the media took."""
        if not self.text and self.finish_reason == "stop":
            warnings = [*warnings, "the model ended its answer before the first word"]
        asked = time.monotonic() - self.started
        first = None if self.handle is None else self.handle.first_token
        prefill = 0.0 if first is None else first - self.started
        reused = 0 if self.handle is None else self.handle.reused_tokens
        return Answer(
            text=self.text,
            finish_reason=self.finish_reason,
            tokens=TokenCounts(len(self.request.keys), reused, self.generated),
            timings=Timings(
                decode=decode,
                encode=encode,
                prefill=prefill,
                generation=asked - prefill,
                total=decode + encode + asked,
            ),
            media=media,
            warnings=tuple(warnings),
        )

"""An answer in the making: ids from the model, text to the listener.

Legend: L tokens of the prompt, D width of the language model.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from video_llama.answer import Answer, FinishReason, MediaUse, Timings, TokenCounts
from video_llama.generation import (
    AnswerText,
    GenerationOptions,
    IdsToText,
    Sampler,
    generate_ids,
)
from video_llama.processing.processor import VideoLlamaProcessor

if TYPE_CHECKING:
    from transformers import Cache

    from video_llama.models import VideoLlamaForConditionalGeneration

# Every other setting of `decode` depends on the tokenizer's files.
PLAIN_DECODING = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@dataclass
class Reply:
    """A question on its way to an answer.

    Attributes:
        question: the text.
        media: numbers of the media that go with it.
        options: how tokens are chosen.
        keys: of the prompt; see `prompt.Prompt`.
        embeddings: of the prompt, (1, L, D).
        limit: tokens the answer may have.
        started: when the question was asked, by `time.perf_counter`.
        pieces: text that was given.
        ids: tokens that were chosen.
        reused: tokens of the prompt that did not have to be run.
        prefill_seconds: from the question to the first token.
        finish_reason: "cancelled" until it has ended otherwise.
    """

    question: str
    media: tuple[int, ...]
    options: GenerationOptions
    keys: tuple[int, ...]
    embeddings: torch.Tensor
    limit: int
    started: float
    pieces: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    reused: int = 0
    prefill_seconds: float = 0.0
    finish_reason: FinishReason = "cancelled"

    @property
    def text(self) -> str:
        """What was given so far."""
        return "".join(self.pieces)

    def write(
        self,
        model: "VideoLlamaForConditionalGeneration",
        processor: VideoLlamaProcessor,
        cache: "Cache",
        stop_ids: frozenset[int],
    ) -> Iterator[str]:
        """The pieces of the answer, as soon as each is certain. None is empty.

        `cache` holds the first `reused` tokens of the prompt, and grows.
        """
        template = processor.prompt_template
        to_text = IdsToText(partial(processor.tokenizer.decode, **PLAIN_DECODING))
        labels = [template.answer_prefix] if template.answer_prefix else []
        clean = AnswerText([*template.stop_strings, *self.options.stop], labels)
        sampler = Sampler(self.options, model.device)
        rest_of_prompt = self.embeddings[:, self.reused :]
        reason: FinishReason = "length"
        for token in generate_ids(model, rest_of_prompt, cache, sampler, self.limit, stop_ids):
            if not self.ids:
                self.prefill_seconds = time.perf_counter() - self.started
            self.ids.append(token)
            if token not in stop_ids and (piece := clean.add(to_text.add(token))):
                self.pieces.append(piece)
                yield piece
            if token in stop_ids or clean.stopped:
                reason = "stop"
                break
        self.finish_reason = reason
        if rest := clean.add(to_text.finish()) + clean.finish():
            self.pieces.append(rest)
            yield rest

    def answer(
        self, *, decode: float, encode: float, media: tuple[MediaUse, ...], warnings: list[str]
    ) -> Answer:
        """The answer with its facts; `decode` and `encode` are the seconds the media took."""
        if not self.text and self.finish_reason == "stop":
            warnings = [*warnings, "the model ended its answer before the first word"]
        asked = time.perf_counter() - self.started
        return Answer(
            text=self.text,
            finish_reason=self.finish_reason,
            tokens=TokenCounts(len(self.keys), self.reused, len(self.ids)),
            timings=Timings(
                decode=decode,
                encode=encode,
                prefill=self.prefill_seconds,
                generation=asked - self.prefill_seconds,
                total=decode + encode + asked,
            ),
            media=media,
            warnings=tuple(warnings),
        )

"""The prompt of a conversation, and how much of it was run before.

Legend: L tokens of a prompt, D width of the language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from video_llama.attachment import Attachment
from video_llama.processing.conversation import Message
from video_llama.processing.processor import VideoLlamaProcessor

if TYPE_CHECKING:
    from video_llama.models import VideoLlamaForConditionalGeneration


@dataclass(frozen=True)
class Turn:
    """A question, the numbers of the media that came with it, and its answer."""

    question: str
    media: tuple[int, ...]
    answer: str = ""


@dataclass(frozen=True)
class Prompt:
    """A prompt in tokens.

    Attributes:
        input_ids: (1, L), with placeholders.
        keys: L numbers: the ids, but below 0 and its own for each medium instead of placeholders.
            Two prompts begin alike if their keys do; ids would not tell one video from another.
        runs: kind and number of the medium behind each run of placeholders, in their order.
    """

    input_ids: torch.Tensor
    keys: tuple[int, ...]
    runs: tuple[tuple[str, int], ...]

    def embed(
        self, model: "VideoLlamaForConditionalGeneration", attachments: Sequence[Attachment]
    ) -> torch.Tensor:
        """(1, L, D), the features of the media in their places."""
        features: dict[str, list[torch.Tensor]] = {"video_features": [], "audio_features": []}
        for kind, number in self.runs:
            name = "audio_features" if kind == "audio" else "video_features"
            feature = getattr(attachments[number], name)
            assert feature is not None, f"attachment {number} has no {name}"
            features[name].append(feature)
        given = {name: torch.cat(rows) for name, rows in features.items() if rows}
        with torch.inference_mode():
            return model.embed(self.input_ids.to(model.device), **given)


def write_prompt(
    turns: Sequence[Turn],
    system: str | None,
    attachments: Sequence[Attachment],
    processor: VideoLlamaProcessor,
) -> Prompt:
    """The prompt that asks the last of the turns; `system` replaces the template's own text."""
    messages = [Message("system", (system,))] if system else []
    for turn in turns:
        parts = [attachments[number].part for number in turn.media]
        messages.append(Message("user", (*parts, turn.question)))
        messages.append(Message("assistant", (turn.answer,) if turn.answer else ()))
    segments = processor.messages_to_segments(messages[:-1], add_generation_prompt=True)
    tokens = processor.tokenize_segments(segments)
    order = [number for turn in turns for number in turn.media]
    runs = tuple((medium.kind, order[medium.part]) for medium in tokens.media)
    return Prompt(
        input_ids=torch.tensor([tokens.input_ids]),
        keys=_keys(tokens.input_ids, runs, processor),
        runs=runs,
    )


def _keys(
    input_ids: Sequence[int], runs: Sequence[tuple[str, int]], processor: VideoLlamaProcessor
) -> tuple[int, ...]:
    keys = list(input_ids)
    at = 0
    for kind, number in runs:
        place = processor.placeholders[kind]
        at = keys.index(place.token_id, at)
        mark = -1 - 2 * number - (kind == "audio")
        keys[at : at + place.length] = [mark] * place.length
        at += place.length
    return tuple(keys)


@dataclass(frozen=True)
class KeptCache:
    """Keys and values of a prompt and its answer, and the tokens they are of."""

    keys: tuple[int, ...]
    cache: DynamicCache


def reuse(kept: KeptCache | None, keys: Sequence[int]) -> tuple[DynamicCache, int]:
    """The kept cache, cut to what it shares with a prompt, and how many tokens that is.

    At least the last token of the prompt is left to be run: its logits choose the first of the
    answer.
    """
    shared = 0 if kept is None else _shared_length(kept.keys, keys[:-1])
    if kept is None or shared == 0:
        # Without a configuration every layer keeps everything, and can be cut anywhere.
        return DynamicCache(), 0
    kept.cache.crop(shared - len(kept.keys))  # below 0: so many are removed
    return kept.cache, shared


def _shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many values both begin with."""
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), shorter)

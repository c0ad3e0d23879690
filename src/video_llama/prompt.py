"""The prompt of a conversation.

Legend: L tokens of a prompt, D width of the language model.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

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
        keys: L of them: the ids, but instead of placeholders what tells the medium from all others,
            and the place in it. Two prompts begin alike if their keys do; ids would not tell one
            video from another.
        runs: kind and number of the medium behind each run of placeholders, in their order.
    """

    input_ids: torch.Tensor
    keys: tuple[Hashable, ...]
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
    messages = [] if system is None else [Message("system", (system,))]
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
        keys=_keys(tokens.input_ids, runs, attachments, processor),
        runs=runs,
    )


def _keys(
    input_ids: Sequence[int],
    runs: Sequence[tuple[str, int]],
    attachments: Sequence[Attachment],
    processor: VideoLlamaProcessor,
) -> tuple[Hashable, ...]:
    keys: list[Hashable] = list(input_ids)
    at = 0
    for kind, number in runs:
        place = processor.placeholders[kind]
        at = keys.index(place.token_id, at)
        mark = f"{kind} {attachments[number].key}"
        keys[at : at + place.length] = [(mark, index) for index in range(place.length)]
        at += place.length
    return tuple(keys)

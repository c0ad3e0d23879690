"""Segments to token ids and a loss mask: the one place, for chat and training alike.

Each piece of text is tokenised on its own, without special tokens but with whatever a tokenizer
always puts before a text (SentencePiece's space mark); a medium becomes a run of its placeholder
id. L is the length of a prompt in tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from video_llama.errors import OptionError, PromptTooLongError
from video_llama.processing.segments import Media, Segment, Special, Text

IGNORE_INDEX = -100  # a label that the loss leaves out


@dataclass(frozen=True)
class Placeholder:
    """What stands for a medium in the token ids: `length` times `token_id`."""

    token_id: int
    length: int


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids (L), labels (L) and the media in the order of their runs.

    `labels` repeats an id where the model is trained to write it and is IGNORE_INDEX elsewhere.
    """

    input_ids: list[int]
    labels: list[int]
    media: tuple[Media, ...]


def tokenize_segments(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    placeholders: Mapping[str, Placeholder],
    max_length: int | None = None,
) -> TokenizedPrompt:
    """Token ids and labels of a rendered conversation.

    A token is supervised if it begins inside a supervised range. A token that begins before an
    answer is part of the prompt a model is given, so it is never learnt; one that runs over the end
    of the range began as the answer's end, and is.

    Args:
        segments: what a template rendered.
        tokenizer: any tokenizer with character offsets (all of the tokenizers library).
        placeholders: by kind of medium.
        max_length: training only: ids beyond it are cut off on the right.

    Raises:
        PromptTooLongError: the cut goes through a medium.
        OptionError: the tokenizer lacks a special token or the offsets that are needed.
    """
    input_ids: list[int] = []
    labels: list[int] = []
    media = []
    for segment in segments:
        match segment:
            case Text():
                ids, mask = _text_ids(segment, tokenizer)
            case Special():
                ids = _special_ids(segment, tokenizer)
                mask = [segment.supervised] * len(ids)
            case Media(kind=kind):
                ids = [placeholders[kind].token_id] * placeholders[kind].length
                mask = [False] * len(ids)
                media.append(segment)
                _require_room(len(input_ids) + len(ids), max_length)
        input_ids += ids
        labels += [
            token if learnt else IGNORE_INDEX for token, learnt in zip(ids, mask, strict=True)
        ]
    return TokenizedPrompt(input_ids[:max_length], labels[:max_length], tuple(media))


def pad_prompts(
    prompts: Sequence[TokenizedPrompt], pad_token_id: int, side: str
) -> dict[str, torch.Tensor]:
    """Prompts of different lengths as one batch.

    Args:
        prompts: B of them.
        pad_token_id: fills `input_ids`; the attention mask is by position, so the same id inside a
            prompt stays visible.
        side: "left" to generate, "right" to train.

    Returns:
        `input_ids`, `attention_mask` and `labels`, int64, shape (B, L).
    """
    if side not in ("left", "right"):
        raise OptionError(f"padding is 'left' or 'right', not {side!r}")
    longest = max(len(prompt.input_ids) for prompt in prompts)

    def batch(rows: list[list[int]], fill: int) -> torch.Tensor:
        padded = []
        for row in rows:
            padding = [fill] * (longest - len(row))
            padded.append(padding + row if side == "left" else row + padding)
        return torch.tensor(padded, dtype=torch.long)

    return {
        "input_ids": batch([prompt.input_ids for prompt in prompts], pad_token_id),
        "attention_mask": batch([[1] * len(prompt.input_ids) for prompt in prompts], 0),
        "labels": batch([prompt.labels for prompt in prompts], IGNORE_INDEX),
    }


def check_fits(prompt_tokens: int, max_new_tokens: int, context: int) -> None:
    """Refuse a prompt that does not fit beside its answer; it is never cut.

    Raises:
        PromptTooLongError: with the number of tokens over in `excess`.
    """
    excess = prompt_tokens + max_new_tokens - context
    if excess > 0:
        raise PromptTooLongError(
            f"the prompt has {prompt_tokens} tokens and the answer may have {max_new_tokens}, "
            f"{excess} more than the model's {context}; shorten the conversation, use fewer media "
            "or ask for a shorter answer",
            excess,
        )


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills up a batch; LLaMA has no padding token and uses its unknown token."""
    candidates = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in candidates if token is not None)


def _text_ids(segment: Text, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    if segment.supervised and not tokenizer.is_fast:
        raise OptionError(
            "training labels need a tokenizer with character offsets; "
            f"{type(tokenizer).__name__} has none, load its tokenizer.json instead"
        )
    ids: list[int] = []
    mask: list[bool] = []
    at = 0
    for piece in _split_typed_specials(segment.text, tokenizer):
        encoded = _encode(piece, tokenizer, return_offsets_mapping=bool(segment.supervised))
        piece_ids = encoded["input_ids"]
        starts = [
            at + start for start, _ in encoded.get("offset_mapping", [(0, 0)] * len(piece_ids))
        ]
        ids += piece_ids
        mask += [any(low <= start < high for low, high in segment.supervised) for start in starts]
        at += len(piece)
    return ids, mask


def _encode(text: str, tokenizer: PreTrainedTokenizerBase, **options: bool) -> BatchEncoding:
    given = {
        "add_special_tokens": False,
        # What a user types is text, even "</s>". Transformers keeps this in the tokenizer itself,
        # which other threads use at the same time: so it is never set to anything else.
        "split_special_tokens": True,
        "return_attention_mask": False,
        "verbose": False,  # the length is checked where the context is known
    }
    return tokenizer(text, **{**given, **options})


def _split_typed_specials(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text, cut inside every special token that was typed and would still be taken for one.

    Unigram models hold their special tokens as ordinary pieces, so not looking for them is not
    enough.
    """
    typed = [token for token in tokenizer.all_special_tokens if len(token) > 1 and token in text]
    if not typed or not set(tokenizer.all_special_ids) & set(_encode(text, tokenizer)["input_ids"]):
        return [text]
    first_letters = "|".join(f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in typed)
    return re.split(first_letters, text)


def _special_ids(segment: Special, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if segment.kind == "start":
        return _start_ids(tokenizer)
    token = tokenizer.bos_token_id if segment.kind == "bos" else tokenizer.eos_token_id
    if token is None:
        raise OptionError(
            f"the prompt template needs a {segment.kind.upper()} token, "
            "which this tokenizer lacks; choose another template"
        )
    return [token]


def _start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before a text: BOS for LLaMA, nothing for many others."""
    bare = _encode("a", tokenizer)["input_ids"]
    full = _encode("a", tokenizer, add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return list(full[:start])
    return []


def _require_room(length: int, max_length: int | None) -> None:
    if max_length is not None and length > max_length:
        raise PromptTooLongError(
            f"the media of a sample reach token {length}, but samples are cut at {max_length}; "
            "raise max_length or shorten the text before them",
            length - max_length,
        )

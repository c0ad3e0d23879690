"""Parts that do not belong together, refused with the reason."""

import json
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor

from video_llama.checkpoints.sizes import Shapes
from video_llama.errors import CheckpointError

# Widths of the language models that branches were published for.
_MODEL_SIZES = {4096: "7B", 5120: "13B"}
EMBEDDINGS = "language_model.model.embed_tokens.weight"

# A trained RMSNorm scale is positive nearly everywhere and of order one; the difference of two
# of them is neither. Both are wanted before weights are called a delta.
_DELTA_MEAN = 0.1
_DELTA_POSITIVE = 0.75
_NORM_IS_A_SCALE = ("llama", "mistral", "qwen2")


def require_same_width(shapes: Shapes, width: int) -> None:
    """Refuse a branch that writes tokens of another width than the language model reads."""
    for branch, name in (
        ("vision", "vision_branch.projector"),
        ("audio", "audio_branch.projector"),
    ):
        key = f"{name}.weight"
        if key not in shapes or shapes[key][0] == width:
            continue
        raise CheckpointError(
            f"the {branch} branch writes tokens of width {_size(shapes[key][0])} and the language "
            f"model reads {_size(width)}: they do not belong together; give the branch that was "
            "trained with this language model"
        )


def require_vocabulary(shapes: Shapes, directory: Path, vocab_size: int) -> None:
    """Refuse tables that were extended after LLaMA's training, and tokenizers beyond the table.

    The published branches go with the table of the original language model (32000 rows); a row
    more, usually a pad token, shifts nothing but belongs to another model.
    """
    rows = shapes[EMBEDDINGS][0]
    if rows != vocab_size:
        raise CheckpointError(
            f"{directory.name}/config.json says a vocabulary of {vocab_size} and the weights have "
            f"{rows} rows; give the configuration that belongs to the weights"
        )
    pieces = _base_vocabulary(directory)
    extended = rows == pieces + 1 if pieces is not None else rows == 32001
    if extended:
        raise CheckpointError(
            f"the language model has a vocabulary of {rows}: one token, usually [PAD], was added "
            f"to the {rows - 1} of the original. The branches belong to a table of {rows - 1}; "
            "give the language model without the added token"
        )
    if pieces is not None and pieces > rows:
        raise CheckpointError(
            f"the tokenizer in {directory.name} has {pieces} tokens and the language model "
            f"{rows} rows; they do not belong together"
        )


def require_merged(directory: Path, model_type: str, final_norm: torch.Tensor | None) -> None:
    """Refuse delta weights: a difference from LLaMA that was never added to it.

    `final_norm` is the scale of the language model's last RMSNorm.
    """
    if final_norm is None or model_type not in _NORM_IS_A_SCALE:
        return
    scale = final_norm.float()
    positive = float((scale > 0).float().mean())
    if abs(float(scale.mean())) < _DELTA_MEAN and positive < _DELTA_POSITIVE:
        raise CheckpointError(
            f"{directory.name} holds delta weights, a difference from LLaMA (its final norm is "
            f"{float(scale.mean()):.3f} on average). Add them to LLaMA first "
            "(python -m fastchat.model.apply_delta) and give the sum"
        )


def _base_vocabulary(directory: Path) -> int | None:
    """Tokens of the tokenizer as it was trained, without those added later."""
    pieces = directory / "tokenizer.model"
    if pieces.is_file():
        try:
            return SentencePieceProcessor(model_file=str(pieces)).vocab_size()
        except (RuntimeError, OSError) as error:
            raise CheckpointError(
                f"{directory.name}/tokenizer.model is no SentencePiece model; download it again"
            ) from error
    fast = directory / "tokenizer.json"
    if not fast.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(fast.read_text(encoding="utf-8"))
        return len(content["model"]["vocab"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory.name}/tokenizer.json cannot be read") from error


def _size(width: int) -> str:
    return f"{width} ({_MODEL_SIZES[width]})" if width in _MODEL_SIZES else str(width)

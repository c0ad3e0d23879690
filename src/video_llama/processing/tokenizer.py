"""Loading the tokenizer of a language model so that its ids are those of the published models."""

import json
from pathlib import Path
from typing import Any, cast

from transformers import (
    AutoTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

SENTENCEPIECE_FILE = "tokenizer.model"
# The first LLaMA directories in circulation spell the class "LLaMATokenizer", and name no specials.
LLAMA_CLASSES = ("llamatokenizer", "llamatokenizerfast")
LLAMA_SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model's directory.

    LLaMA's SentencePiece file is read with the rules of its first release (`legacy`), under which
    every text, also one after a special token, begins with a space mark: the published models were
    trained and measured so, and the default of today gives other ids. The result is a plain
    tokenizer of the tokenizers library, so `save_pretrained` writes these rules down and
    `AutoTokenizer` reads them back.

    Any other directory is read by `AutoTokenizer` as it stands.
    """
    directory = Path(directory)
    settings = _read_settings(directory)
    if not _is_llama(directory, settings):
        return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(directory))
    options: dict[str, Any] = {
        name: token for name, token in LLAMA_SPECIALS.items() if not settings.get(name)
    }
    options["add_bos_token"] = settings.get("add_bos_token", True)
    llama = LlamaTokenizer.from_pretrained(directory, legacy=True, **options)
    return PreTrainedTokenizerFast(
        tokenizer_object=llama.backend_tokenizer,
        bos_token=llama.bos_token,
        eos_token=llama.eos_token,
        unk_token=llama.unk_token,
        pad_token=llama.pad_token,
        model_max_length=llama.model_max_length,
        clean_up_tokenization_spaces=False,
    )


def _read_settings(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _is_llama(directory: Path, settings: dict[str, Any]) -> bool:
    name = settings.get("tokenizer_class")
    if name is None:
        return (directory / SENTENCEPIECE_FILE).is_file()
    return name.lower() in LLAMA_CLASSES

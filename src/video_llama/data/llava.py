"""Conversations as LLaVA and ShareGPT write them, in a JSON list or as lines of JSON.

    {"id": "7", "image": "7.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is this?"},
        {"from": "gpt", "value": "A dog."}]}

"image", "video" and "audio" name one medium or a list of them; each stands where the text of the
questions has `<image>`, `<video>` or `<audio>`, in this order. In a row that names videos only,
`<image>` stands for a video too, as LLaVA-Video writes it. An empty system text is left out.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from video_llama.data.records import RecordRows, json_records, parse_json
from video_llama.data.sample import (
    KINDS,
    Find,
    Sample,
    Source,
    media_path,
    require_field,
    require_mapping,
    require_text,
)
from video_llama.errors import DataError
from video_llama.processing.conversation import PartKind

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_CALLED = {"user": "the question", "assistant": "the answer", "system": "the system text"}
_PLACEHOLDER = re.compile(f"<({'|'.join(KINDS)})>")


def open_llava(name: str, path: Path, media: Path) -> RecordRows:
    """The conversations of a LLaVA json.

    Raises:
        DataError: it cannot be read, or holds no list.
    """
    return RecordRows(name, json_records(path), partial(parse_llava, media=media))


def parse_llava(key: str, record: bytes, *, media: Path) -> Sample:
    """One conversation; see `conversation_sample`."""
    row = require_mapping(key, parse_json(key, record))
    return conversation_sample(key, row, lambda _, name: media_path(key, media, name))


def conversation_sample(key: str, row: dict[str, Any], find: Find) -> Sample:
    """A row with "conversations" and media.

    Raises:
        DataError: turns out of order, empty answers, media that no placeholder stands for.
    """
    turns = require_field(key, row, "conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{key}: 'conversations' must be a list of turns that is not empty")
    named = {kind: _names(key, row, kind) for kind in KINDS}
    roles, texts = _roles_and_texts(key, turns)
    if [kind for kind in KINDS if named[kind]] == ["video"]:
        texts = [_with_videos(role, text) for role, text in zip(roles, texts, strict=True)]
    require_order(key, roles)
    _require_counts(key, named, roles, texts)
    sources = {kind: iter([find(kind, one) for one in named[kind]]) for kind in KINDS}
    messages = []
    for role, text in zip(roles, texts, strict=True):
        value = require_text(key, text, _CALLED[role])
        content = value.strip() if role != "user" else _parts(value, sources)
        messages.append({"role": role, "content": content})
    return Sample(key, tuple(messages))


def require_order(key: str, roles: list[str]) -> None:
    """Questions and answers in turn, a system text before them or none, an answer at the end.

    Raises:
        DataError: otherwise.
    """
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise DataError(
            f"{key}: questions and answers must follow in turn and end with an answer; "
            f"here they are {', '.join(roles) or 'missing'}"
        )


def _names(key: str, row: dict[str, Any], kind: PartKind) -> list[str]:
    value = row.get(kind)
    if value is None or value == "":
        return []
    names = value if isinstance(value, list) else [value]
    return [require_text(key, name, f"the name of the {kind}") for name in names]


def _role(key: str, number: int, turn: Any) -> str:
    given = turn.get("from") if isinstance(turn, dict) else None
    if not isinstance(given, str) or given not in ROLES:
        raise DataError(f"{key}: turn {number} is from {given!r}; known are {', '.join(ROLES)}")
    return ROLES[given]


def _roles_and_texts(key: str, turns: list[Any]) -> tuple[list[str], list[Any]]:
    """Role and text of each turn, without an empty system text."""
    roles = [_role(key, number, turn) for number, turn in enumerate(turns, start=1)]
    pairs = [(role, turn.get("value")) for role, turn in zip(roles, turns, strict=True)]
    kept = [
        (role, text)
        for role, text in pairs
        if not (role == "system" and isinstance(text, str) and not text.strip())
    ]
    return [role for role, _ in kept], [text for _, text in kept]


def _with_videos(role: str, text: Any) -> Any:
    """A question in which `<image>` is a video."""
    if role != "user" or not isinstance(text, str):
        return text
    return text.replace("<image>", "<video>")


def _require_counts(
    key: str, named: dict[PartKind, list[str]], roles: list[str], texts: list[Any]
) -> None:
    """As many placeholders in the questions as media, of each kind."""
    found: Counter[str] = Counter()
    for role, text in zip(roles, texts, strict=True):
        if role == "user" and isinstance(text, str):
            found.update(_PLACEHOLDER.findall(text))
    for kind, names in named.items():
        if found[kind] != len(names):
            raise DataError(
                f"{key}: the questions have {found[kind]} <{kind}> and the row names "
                f"{len(names)} under {kind!r}"
            )


def _parts(text: str, sources: dict[PartKind, Iterator[Source]]) -> list[dict[str, Any]]:
    """Texts and media of a question, in order."""
    pieces = _PLACEHOLDER.split(text)  # text, kind, text, kind, ..., text
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            parts.append({"type": piece, piece: next(sources[cast("PartKind", piece)])})
            continue
        piece = _without_break(piece, before=number > 0, behind=number + 1 < len(pieces))
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _without_break(text: str, *, before: bool, behind: bool) -> str:
    """A text without the one line break between it and a medium before or behind it.

    Templates that want a line break there write it themselves.
    """
    if before and text.startswith("\n") and not text[1:2].isspace():
        text = text[1:]
    if behind and text.endswith("\n") and not text[-2:-1].isspace():
        text = text[:-1]
    return text

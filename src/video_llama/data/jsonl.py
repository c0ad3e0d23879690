"""Lines of JSON, each a sample in one of three forms.

    {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"},
                                               {"type": "text", "text": "What happens?"}]},
                  {"role": "assistant", "content": "A dog runs."}]}
    {"image": "a.jpg", "conversations": [...]}                        as `data.llava` has it
    {"image": "a.jpg", "caption": "a dog"}              or "captions": ["a dog", "a dog on a lawn"]

Media are named relative to the folder of the file, or given as data: URLs. A caption follows its
medium as in stage 1; with an "instruction" beside it, it is the answer to that, as in stage 2.
An empty system text is left out. Shards hold the same forms; see `data.shards`.
"""

from functools import partial
from pathlib import Path
from typing import Any

from video_llama.data.llava import conversation_sample
from video_llama.data.records import RecordRows, line_records, parse_json
from video_llama.data.sample import (
    KINDS,
    Find,
    Sample,
    Source,
    caption_sample,
    media_path,
    require_mapping,
    require_text,
)
from video_llama.errors import DataError, PromptError
from video_llama.processing.conversation import PartKind, parse_conversation

FORMS = ("messages", "conversations", "captions", "caption")


def open_jsonl(name: str, path: Path, media: Path) -> RecordRows:
    """The lines of a file.

    Raises:
        DataError: it cannot be read.
    """
    return RecordRows(name, line_records(path), partial(parse_line, media=media))


def parse_line(key: str, record: bytes, *, media: Path) -> Sample:
    """One line.

    Raises:
        DataError: it has none of the forms, or breaks the rules of its own.
    """
    row = require_mapping(key, parse_json(key, record.removeprefix(b"\xef\xbb\xbf")))

    def find(_: PartKind, name: Any) -> Source:
        if isinstance(name, str) and name.startswith("data:"):
            return name
        return media_path(key, media, name)

    return row_sample(key, row, find)


def row_sample(key: str, row: dict[str, Any], find: Find) -> Sample:
    """A row in one of the forms; `find` gives the media it names.

    Raises:
        DataError: it has none of the forms, or breaks the rules of its own.
    """
    form = next((name for name in FORMS if row.get(name) is not None), None)
    if form == "messages":
        return messages_sample(key, row["messages"], find)
    if form == "conversations":
        return conversation_sample(key, row, find)
    if form is not None:
        return _captions_sample(key, row, form, find)
    null = next((name for name in FORMS if name in row), None)
    if null is not None:
        wanted = "a text" if null == "caption" else "a list"
        raise DataError(f"{key}: {null!r} is null; it must be {wanted}")
    raise DataError(
        f"{key}: a row needs one of {', '.join(FORMS)}; it has {', '.join(row) or 'nothing'}"
    )


def messages_sample(key: str, messages: Any, find: Find) -> Sample:
    """A conversation in the form of `processing.conversation`.

    Raises:
        DataError: it is malformed, does not end with an answer, or has an empty one.
    """
    if not isinstance(messages, list):
        raise DataError(f"{key}: 'messages' must be a list")
    _require_times(key, messages)
    try:
        parse_conversation(messages)
    except PromptError as error:
        raise DataError(f"{key}: {error}") from None
    found = [_message(key, one, find) for one in messages if not _is_empty_system(one)]
    if found[-1]["role"] != "assistant":
        raise DataError(f"{key}: the last message must be an answer, of the role 'assistant'")
    return Sample(key, tuple(found))


def _require_times(key: str, messages: list[Any]) -> None:
    """Times of frames that are numbers; `parse_conversation` takes them for granted."""
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    for part in parts:
        times = part.get("times") if isinstance(part, dict) else None
        try:
            [float(time) for time in (() if times is None else times)]
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{key}: 'times' must be a list of seconds, not {times!r:.60}"
            ) from None


def _is_empty_system(message: dict[str, Any]) -> bool:
    return message["role"] == "system" and not _text(message["content"]).strip()


def _text(content: str | list[Any]) -> str:
    """A content without media."""
    parts = [content] if isinstance(content, str) else content
    return " ".join(part if isinstance(part, str) else part["text"] for part in parts)


def _message(key: str, message: dict[str, Any], find: Find) -> dict[str, Any]:
    role, content = message["role"], message["content"]
    if role == "system":
        return {"role": role, "content": _text(content).strip()}
    if role == "assistant":
        return {"role": role, "content": require_text(key, _text(content), "the answer").strip()}
    if isinstance(content, str):
        return {"role": role, "content": require_text(key, content, "the question")}
    return {"role": role, "content": [_part(part, find) for part in content]}


def _part(part: Any, find: Find) -> Any:
    if isinstance(part, str) or part["type"] == "text":
        return part
    kind = part["type"]
    named = next((part[name] for name in (kind, "url", "path") if part.get(name)), None)
    return {"type": kind, kind: find(kind, named)}


def _captions_sample(key: str, row: dict[str, Any], form: str, find: Find) -> Sample:
    captions = row[form] if form == "captions" else [row[form]]
    if not isinstance(captions, list) or not captions:
        raise DataError(f"{key}: 'captions' must be a list of texts that is not empty")
    first, *others = [require_text(key, text, "a caption").strip() for text in captions]
    kinds = [kind for kind in KINDS if row.get(kind)]
    if len(kinds) != 1:
        raise DataError(
            f"{key}: a caption belongs to one medium; give one of {', '.join(KINDS)}, "
            f"not {' and '.join(kinds) or 'none'}"
        )
    instruction = row.get("instruction") or ""
    if instruction:
        require_text(key, instruction, "the instruction")
    source = find(kinds[0], row[kinds[0]])
    return caption_sample(
        key, kinds[0], source, first, instruction=instruction, others=tuple(others)
    )

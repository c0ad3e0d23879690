"""VideoChat: questions and answers about a video, in a JSON list.

    {"video": "000001/12345.mp4", "QA": [{"q": "What happens?", "a": "A dog runs."}, ...]}

What is about in this form beside it: "image" instead of "video"; `QA` as a single pair; pairs as
`["question", "answer"]`; a row as `["video.mp4", [pairs]]`; an instruction `i` in the first pair,
which is the system text, and an empty first question beside it (a description).
"""

from functools import partial
from pathlib import Path
from typing import Any

from video_llama.data.records import RecordRows, json_records, parse_json
from video_llama.data.sample import Sample, media_path, require_field, require_text
from video_llama.errors import DataError
from video_llama.processing.conversation import PartKind


def open_videochat(name: str, path: Path, media: Path) -> RecordRows:
    """The conversations of a VideoChat json.

    Raises:
        DataError: it cannot be read, or holds no list.
    """
    return RecordRows(name, json_records(path), partial(parse_videochat, media=media))


def parse_videochat(key: str, record: bytes, *, media: Path) -> Sample:
    """One video with its questions and answers.

    Raises:
        DataError: it has another form, or empty answers.
    """
    kind, medium, pairs = _row(key, parse_json(key, record))
    if not pairs:
        raise DataError(f"{key}: there are no questions and answers under 'QA'")
    parsed = [_pair(key, number, pair) for number, pair in enumerate(pairs, start=1)]
    instruction = parsed[0][0]
    messages: list[dict[str, Any]] = []
    if instruction:
        messages.append({"role": "system", "content": instruction})
    content: list[dict[str, Any]] = [{"type": kind, kind: media_path(key, media, medium)}]
    for number, (own, question, answer) in enumerate(parsed):
        if own and own != instruction:
            question = f"{own} {question}".strip()
        if not question and not (number == 0 and instruction):
            raise DataError(f"{key}: question {number + 1} is empty")
        if question:
            content.append({"type": "text", "text": question})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": answer})
        content = []
    return Sample(key, tuple(messages))


def _row(key: str, row: Any) -> tuple[PartKind, Any, list[Any]]:
    """Kind and name of the medium, and the pairs."""
    if isinstance(row, list) and len(row) == 2:
        row = {"video": row[0], "QA": row[1]}
    if not isinstance(row, dict):
        raise DataError(f"{key}: a row must be an object with 'video' and 'QA'")
    kind: PartKind = "image" if "image" in row and "video" not in row else "video"
    medium = require_field(key, row, kind)
    pairs = require_field(key, row, "QA")
    if isinstance(pairs, dict):
        pairs = [pairs]
    if not isinstance(pairs, list):
        raise DataError(f"{key}: 'QA' must be a list of questions and answers")
    return kind, medium, pairs


def _pair(key: str, number: int, pair: Any) -> tuple[str, str, str]:
    """Instruction ("" if none), question and answer."""
    if isinstance(pair, list) and len(pair) == 2:
        pair = {"q": pair[0], "a": pair[1]}
    if not isinstance(pair, dict) or "a" not in pair or "q" not in pair:
        raise DataError(f"{key}: pair {number} must have a question 'q' and an answer 'a'")
    answer = require_text(key, pair["a"], f"answer {number}").strip()
    texts = [pair.get("i", ""), pair["q"]]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{key}: question {number} must be a text")
    instruction, question = (text.strip() for text in texts)
    return instruction, question, answer

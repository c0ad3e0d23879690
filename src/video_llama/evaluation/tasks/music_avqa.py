"""MUSIC-AVQA (Li et al. 2022): questions about seen and heard instruments, one word each.

    avqa-test.json   [{"video_id": "00002674", "question_id": 29, "type":
                       "[\"Audio-Visual\", \"Existential\"]", "question_content":
                       "Is the <Object> in the video always playing?",
                       "templ_values": "[\"cello\"]", "question_deleted": 0, "anser": "yes"}, ...]
    *.mp4            "00002674.mp4", in any folder

"type" and "templ_values" are lists, written as text; the values stand for the <...> of the question
in turn. "anser" is spelt so.
"""

import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from video_llama.data.sample import require_field, require_text
from video_llama.errors import DataError
from video_llama.evaluation.files import MediaFolder, find_file, json_rows
from video_llama.evaluation.metrics import measure_open
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task

_SLOT = re.compile(r"<[^<>]+>")


def load(data: Path) -> QuestionSet:
    """The test questions, but those that were deleted."""
    path = find_file(data, "avqa-test.json", "*avqa-test.json")
    videos = MediaFolder(data, "video")
    questions, deleted = [], 0
    for key, row in json_rows(path):
        if row.get("question_deleted"):
            deleted += 1
            continue
        questions.append(
            Question(
                id=str(require_field(key, row, "question_id")),
                medium=Medium(videos.find(key, f"{require_field(key, row, 'video_id')}.mp4")),
                text=fill_slots(key, row),
                references=(require_text(key, row.get("anser"), "the answer ('anser')"),),
                kind=", ".join(_texts(key, row, "type")),
            )
        )
    notes = (f"{deleted} questions that the data set has deleted are left out",) if deleted else ()
    return QuestionSet(tuple(questions), (path,), notes)


def fill_slots(key: str, row: dict[str, Any]) -> str:
    """The question with its values in their places."""
    text = require_text(key, row.get("question_content"), "the question").strip()
    values = _texts(key, row, "templ_values")
    slots = len(_SLOT.findall(text))
    if slots != len(values):
        raise DataError(
            f"{key}: the question has {slots} places and there are {len(values)} values"
        )
    left: Iterator[str] = iter(values)
    return _SLOT.sub(lambda _: next(left), text)


def _texts(key: str, row: dict[str, Any], name: str) -> list[str]:
    """A list of texts, which may be written as JSON inside a text."""
    value = require_field(key, row, name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except JSONDecodeError:
            raise DataError(f"{key}: {name!r} is no list: {value[:60]!r}") from None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{key}: {name!r} must be a list of texts")
    return value


TASK = Task(
    name="music-avqa",
    about="instruments seen and heard, open questions by modality and kind",
    expects="avqa-test.json and the videos (00002674.mp4, ...)",
    load=load,
    measure=measure_open,
    max_new_tokens=64,
    open_answers=True,
)

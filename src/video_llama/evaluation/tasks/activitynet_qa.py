"""ActivityNet-QA (Yu et al. 2019): 8,000 questions about 800 long videos.

test_q.json   [{"question_id": "v_1QIUV7WYKXg_3", "video_name": "1QIUV7WYKXg",
                "question": "..."}, ...]
test_a.json   [{"question_id": "v_1QIUV7WYKXg_3", "answer": "yes", "type": 3}, ...]
*.mp4         "v_1QIUV7WYKXg.mp4", or with another suffix, in any folder
"""

from pathlib import Path
from typing import Any

from video_llama.data.sample import require_field, require_id, require_text
from video_llama.errors import DataError
from video_llama.evaluation.files import MediaFolder, find_file, json_rows
from video_llama.evaluation.metrics import measure_open
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task
from video_llama.evaluation.tasks.msvd_qa import question_text

# By the number in the field "type".
KINDS = (
    "motion",
    "spatial relation",
    "temporal relation",
    "yes or no",
    "colour",
    "object",
    "location",
    "number",
    "other",
)


def load(data: Path) -> QuestionSet:
    """The test questions with their answers."""
    asked, answered = find_file(data, "test_q.json"), find_file(data, "test_a.json")
    answers = {require_id(key, row, "question_id"): (key, row) for key, row in json_rows(answered)}
    videos = MediaFolder(data, "video")
    questions = []
    for key, row in json_rows(asked):
        name = require_id(key, row, "question_id")
        if name not in answers:
            raise DataError(f"{key}: {answered.name} has no answer to the question {name!r}")
        answer_key, answer = answers[name]
        video = f"v_{require_field(key, row, 'video_name')}.mp4"
        questions.append(
            Question(
                id=str(name),
                medium=Medium(_find(videos, key, video)),
                text=question_text(require_text(key, row.get("question"), "the question")),
                references=(require_text(answer_key, answer.get("answer"), "the answer"),),
                kind=_kind(answer_key, answer.get("type")),
            )
        )
    return QuestionSet(tuple(questions), (asked, answered))


def _find(videos: MediaFolder, key: str, name: str) -> Path:
    """A video with or without the "v_" that ActivityNet puts before its names."""
    found = videos.find(key, name)
    bare = videos.find(key, name.removeprefix("v_"))
    return bare if bare.exists() and not found.exists() else found


def _kind(key: str, number: Any) -> str:
    if not isinstance(number, int) or not 0 <= number < len(KINDS):
        raise DataError(f"{key}: the type must be a number from 0 to {len(KINDS) - 1}")
    return KINDS[number]


TASK = Task(
    name="activitynet-qa",
    about="long videos, open questions by kind",
    expects="test_q.json, test_a.json and the videos (v_NAME.mp4, ...)",
    load=load,
    measure=measure_open,
    max_new_tokens=64,
    open_answers=True,
)

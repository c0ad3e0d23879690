"""MSRVTT-QA (Xu et al. 2017): 72,821 questions about 2,990 clips of 10 to 30 seconds.

test_qa.json   [{"id": 158581, "video_id": 7010, "category_id": 14, "question": "...",
                 "answer": "..."}, ...]
*.mp4          "video7010.mp4", in any folder
"""

from pathlib import Path

from video_llama.data.sample import require_field, require_text
from video_llama.evaluation.files import MediaFolder, find_file, json_rows
from video_llama.evaluation.metrics import measure_open
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task
from video_llama.evaluation.tasks.msvd_qa import question_text, question_word


def load(data: Path) -> QuestionSet:
    """The test questions."""
    path = find_file(data, "test_qa.json")
    videos = MediaFolder(data, "video")
    questions = [
        Question(
            id=str(require_field(key, row, "id")),
            medium=Medium(videos.find(key, f"video{require_field(key, row, 'video_id')}.mp4")),
            text=question_text(require_text(key, row.get("question"), "the question")),
            references=(require_text(key, row.get("answer"), "the answer"),),
            kind=question_word(row["question"]),
        )
        for key, row in json_rows(path)
    ]
    return QuestionSet(tuple(questions), (path,))


TASK = Task(
    name="msrvtt-qa",
    about="clips of 10 to 30 seconds, open questions with one-word answers",
    expects="test_qa.json and the clips (video7010.mp4, ...)",
    load=load,
    measure=measure_open,
    max_new_tokens=64,
    open_answers=True,
)

"""MSVD-QA (Xu et al. 2017): 13,157 questions about 520 short clips of YouTube, one word each.

test_qa.json          [{"id": 33910, "video_id": 1451, "question": "...", "answer": "..."}, ...]
youtube_mapping.txt   a line each: the clip's own name, and "vid" with its number
*.avi                 of both names: "4wsuPCjDBc_5_15.avi" or "vid1451.avi", in any folder
"""

from pathlib import Path

from video_llama.data.sample import require_field, require_text
from video_llama.errors import DataError
from video_llama.evaluation.files import MediaFolder, find_file, json_rows, matching, read_text
from video_llama.evaluation.metrics import measure_open
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task

QUESTION_WORDS = ("what", "who", "how", "when", "where")


def load(data: Path) -> QuestionSet:
    """The test questions."""
    path = find_file(data, "test_qa.json")
    names_paths = matching(data, "youtube_mapping.txt")
    names = _clip_names(names_paths[0]) if names_paths else {}
    videos = MediaFolder(data, "video")
    questions = []
    for key, row in json_rows(path):
        number = f"vid{require_field(key, row, 'video_id')}"
        video = videos.find(key, f"{number}.avi")
        if not video.exists() and number in names:
            video = videos.find(key, f"{names[number]}.avi")
        questions.append(
            Question(
                id=str(require_field(key, row, "id")),
                medium=Medium(video),
                text=question_text(require_text(key, row.get("question"), "the question")),
                references=(require_text(key, row.get("answer"), "the answer"),),
                kind=question_word(row["question"]),
            )
        )
    return QuestionSet(tuple(questions), (path, *names_paths))


def question_word(question: str) -> str:
    """The kind of a question: the word it begins with, "other" for rare ones."""
    word = question.split()[0].lower()
    return word if word in QUESTION_WORDS else "other"


def question_text(question: str) -> str:
    """A question as a person would write it: the files have small letters throughout."""
    question = question.strip()
    return question[0].upper() + question[1:]


def _clip_names(path: Path) -> dict[str, str]:
    names = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        words = line.split()
        if len(words) not in (0, 2):
            raise DataError(f"line {number} of {path.name} must be a clip's name and its number")
        if words:
            names[words[1]] = words[0]
    return names


TASK = Task(
    name="msvd-qa",
    about="short clips, open questions with one-word answers",
    expects="test_qa.json, youtube_mapping.txt and the clips (.avi)",
    load=load,
    measure=measure_open,
    max_new_tokens=64,
    open_answers=True,
)

"""POPE (Li et al. 2023): is a thing in the picture? Half of the things are not.

    coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json: a line each,
                 {"question_id": 1, "image": "COCO_val2014_000000016631.jpg",
                  "text": "Is there a person in the image?", "label": "yes"}
    *.jpg        in any folder, such as val2014/

The files differ in how the absent things are drawn; each is a kind of question.
"""

from pathlib import Path

from video_llama.data.sample import require_field, require_text
from video_llama.errors import DataError
from video_llama.evaluation.files import MediaFolder, find_files, line_rows
from video_llama.evaluation.metrics import measure_yes_no
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task


def load(data: Path) -> QuestionSet:
    """The questions of all files that are there."""
    paths = find_files(data, "*pope_*.json*", "coco/*pope_*.json*", "*.jsonl")
    pictures = MediaFolder(data, "image")
    questions = [
        Question(
            id=f"{path.stem}#{require_field(key, row, 'question_id')}",
            medium=Medium(pictures.find(key, require_field(key, row, "image"))),
            text=require_text(key, row.get("text"), "the question"),
            references=(yes_or_no_label(key, row.get("label")),),
            kind=path.stem.split("_")[-1],
        )
        for path in paths
        for key, row in line_rows(path)
    ]
    return QuestionSet(tuple(questions), tuple(paths))


def yes_or_no_label(key: str, label: object) -> str:
    """ "yes" or "no", however it is written.

    Raises:
        DataError: it is something else.
    """
    text = str(label).strip().lower().rstrip(".")
    if text not in ("yes", "no"):
        raise DataError(f"{key}: the label must be yes or no, not {label!r}")
    return text


TASK = Task(
    name="pope",
    about="pictures, yes or no: is a thing there that may be imagined?",
    expects="coco_pope_random.json, ..._popular.json, ..._adversarial.json and the pictures",
    load=load,
    measure=measure_yes_no,
    max_new_tokens=32,
)

"""POPE (Li et al. 2023): is a thing in the picture? Half of the things are not.

    coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json: a line each,
                 {"question_id": 1, "image": "COCO_val2014_000000016631.jpg",
                  "text": "Is there a person in the image?", "label": "yes"}
    *.jpg        in any folder, such as val2014/

The files differ in how the absent things are drawn; each is a kind of question. With files of
several data sets ("aokvqa_pope_random.json", ...) the kinds have the names of these before them.

"accuracy", "f1" and "yes_share" take an answer that says neither yes nor no as wrong, and as no
yes. The numbers that begin with "published_" are of the same answers, read as the published script
(`evaluate.py`) reads them: whatever has no "no" or "not" is a yes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from video_llama.data.sample import require_field, require_text
from video_llama.errors import DataError
from video_llama.evaluation.files import MediaFolder, find_files, line_rows
from video_llama.evaluation.metrics import label_shares, measure_yes_no, with_kinds, yes_no_shares
from video_llama.evaluation.task import Answered, Measured, Medium, Question, QuestionSet, Task


def load(data: Path) -> QuestionSet:
    """The questions of all files that are there."""
    paths = find_files(data, "*pope_*.json*", "coco/*pope_*.json*", "*.jsonl")
    pictures = MediaFolder(data, "image")
    kinds = _kinds(paths)
    questions = [
        Question(
            id=f"{path.stem}#{require_field(key, row, 'question_id')}",
            medium=Medium(pictures.find(key, require_field(key, row, "image"))),
            text=require_text(key, row.get("text"), "the question"),
            references=(yes_or_no_label(key, row.get("label")),),
            kind=kinds[path],
        )
        for path in paths
        for key, row in line_rows(path)
    ]
    return QuestionSet(tuple(questions), tuple(paths))


def _kinds(paths: Sequence[Path]) -> dict[Path, str]:
    """What the questions of each file are called: by their drawing, and by their data set too
    where there are several."""
    parts = {path: (path.stem.partition("_pope_")[0], path.stem.split("_")[-1]) for path in paths}
    several = len({data_set for data_set, _ in parts.values()}) > 1
    return {
        path: f"{data_set} {drawing}" if several and data_set != path.stem else drawing
        for path, (data_set, drawing) in parts.items()
    }


def yes_or_no_label(key: str, label: object) -> str:
    """ "yes" or "no", however it is written.

    Raises:
        DataError: it is something else.
    """
    text = str(label).strip().lower().rstrip(".")
    if text not in ("yes", "no"):
        raise DataError(f"{key}: the label must be yes or no, not {label!r}")
    return text


def measure(answered: Sequence[Answered]) -> Measured:
    """Yes or no, with the published script's reading beside, of all and of each kind."""
    return replace(measure_yes_no(answered), metrics=with_kinds(answered, _shares))


def published_reading(answer: str) -> str:
    """ "yes" or "no" as the published script takes an answer.

    Its first sentence ends at the first point; it is a no where one of the words between its
    spaces, commas taken out, is "No", "no" or "not". So "NO" and "isn't" are a yes.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def _shares(answered: Sequence[Answered]) -> dict[str, float]:
    published = label_shares(answered, published_reading)
    return {
        **yes_no_shares(answered),
        "published_accuracy": published["accuracy"],
        "published_f1": published["f1"],
        "published_yes": published["yes_share"],
    }


TASK = Task(
    name="pope",
    about="pictures, yes or no: is a thing there that may be imagined?",
    expects="coco_pope_random.json, ..._popular.json, ..._adversarial.json and the pictures",
    load=load,
    measure=measure,
    max_new_tokens=32,
)

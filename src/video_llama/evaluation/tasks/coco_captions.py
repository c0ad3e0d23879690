"""COCO captions, and what is written like them: pictures (or other media) with several captions.

captions_val2014.json   {"images": [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}],
                         "annotations": [{"image_id": 42, "caption": "..."}, ...]}
*.jpg                   in any folder, such as val2014/
"""

from collections import defaultdict
from pathlib import Path

from video_llama.data.sample import require_field, require_id, require_text
from video_llama.errors import DataError
from video_llama.evaluation.captioning import measure_captions
from video_llama.evaluation.files import MediaFolder, find_file, json_rows
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task

QUESTION = "Describe the image in one sentence."


def load(data: Path) -> QuestionSet:
    """A question for each picture that has captions."""
    path = find_file(data, "captions_val*.json", "captions_test*.json", "*captions*.json")
    captions: dict[object, list[str]] = defaultdict(list)
    for key, row in json_rows(path, "annotations"):
        caption = require_text(key, row.get("caption"), "the caption")
        captions[require_id(key, row, "image_id")].append(caption)
    pictures = MediaFolder(data, "image")
    questions = []
    for key, row in json_rows(path, "images"):
        number = require_id(key, row, "id")
        if number not in captions:
            continue
        questions.append(
            Question(
                id=str(number),
                medium=Medium(pictures.find(key, require_field(key, row, "file_name"))),
                text=QUESTION,
                references=tuple(captions.pop(number)),
            )
        )
    if captions:
        raise DataError(
            f"{path.name}: captions of an image {next(iter(captions))!r} that is missing"
        )
    return QuestionSet(tuple(questions), (path,))


TASK = Task(
    name="coco-captions",
    about="pictures, a caption measured by CIDEr",
    expects="captions_val2014.json and the pictures",
    load=load,
    measure=measure_captions,
    max_new_tokens=64,
)

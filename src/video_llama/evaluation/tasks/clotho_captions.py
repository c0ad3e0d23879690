"""Clotho captions (Drossos et al. 2020): sounds of 15 to 30 seconds with five captions each.

clotho_captions_evaluation.csv   file_name,caption_1,caption_2,caption_3,caption_4,caption_5
*.wav                            in any folder, such as evaluation/
"""

from pathlib import Path

from video_llama.data.sample import require_text
from video_llama.evaluation.captioning import measure_captions
from video_llama.evaluation.files import MediaFolder, csv_rows, find_file
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task

QUESTION = "Describe what you hear in one sentence."
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def load(data: Path) -> QuestionSet:
    """A question for each sound."""
    path = find_file(data, "clotho_captions_evaluation.csv", "clotho_captions_*.csv")
    sounds = MediaFolder(data, "audio")
    questions = [
        Question(
            id=row["file_name"],
            medium=Medium(sounds.find(key, row["file_name"])),
            text=QUESTION,
            references=tuple(require_text(key, row[name], "a caption") for name in CAPTIONS),
        )
        for key, row in csv_rows(path, "file_name", *CAPTIONS)
    ]
    return QuestionSet(tuple(questions), (path,))


TASK = Task(
    name="clotho-captions",
    about="sounds, a caption measured by CIDEr",
    expects="clotho_captions_evaluation.csv and the sounds (.wav)",
    load=load,
    measure=measure_captions,
    max_new_tokens=64,
)

"""AVHBench (Sung-Bin et al. 2025), and what is written like it: what is seen must not be heard.

    QA.json   [{"video_id": "00001", "task": "Video-driven Audio Hallucination",
                "text": "Is the dog making sound in the audio?", "label": "No"}, ...]
    *.mp4     "00001.mp4", in any folder

The tasks of yes or no are "Video-driven Audio Hallucination" (does what is seen make a sound?),
"Audio-driven Video Hallucination" (is what is heard in sight?) and "AV Matching" (do they belong
together?); each is a kind of question. Rows of "AV Captioning" are left out.
"""

from pathlib import Path

from video_llama.data.sample import require_field, require_text
from video_llama.evaluation.files import MediaFolder, find_file, json_rows
from video_llama.evaluation.metrics import measure_yes_no
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task
from video_llama.evaluation.tasks.pope import yes_or_no_label

CAPTIONING = "AV Captioning"


def load(data: Path) -> QuestionSet:
    """The questions of yes or no."""
    path = find_file(data, "QA.json", "qa.json", "*.json")
    videos = MediaFolder(data, "video")
    questions, captions = [], 0
    for key, row in json_rows(path):
        task = require_text(key, row.get("task"), "the task")
        if task == CAPTIONING:
            captions += 1
            continue
        questions.append(
            Question(
                id=key,
                medium=Medium(videos.find(key, f"{require_field(key, row, 'video_id')}.mp4")),
                text=require_text(key, row.get("text"), "the question"),
                references=(yes_or_no_label(key, row.get("label")),),
                kind=task,
            )
        )
    notes = (f"{captions} rows of {CAPTIONING} are left out",) if captions else ()
    return QuestionSet(tuple(questions), (path,), notes)


TASK = Task(
    name="avhbench",
    about="videos with sound, yes or no: is it seen, is it heard, do they match?",
    expects="QA.json and the videos (00001.mp4, ...)",
    load=load,
    measure=measure_yes_no,
    max_new_tokens=32,
)

"""MSR-VTT captions (Xu et al. 2016): 2,990 clips with twenty captions each.

    test_videodatainfo.json   {"videos": [{"video_id": "video7010", "split": "test", ...}, ...],
                               "sentences": [{"video_id": "video7010", "caption": "..."}, ...]}
    *.mp4                     "video7010.mp4", in any folder

Of a file with several splits only videos of the split "test" are asked about.
"""

from collections import defaultdict
from pathlib import Path

from video_llama.data.sample import require_id, require_text
from video_llama.evaluation.captioning import measure_captions
from video_llama.evaluation.files import MediaFolder, find_file, json_rows
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task

QUESTION = "Describe the video in one sentence."


def load(data: Path) -> QuestionSet:
    """A question for each clip of the test split."""
    path = find_file(data, "test_videodatainfo.json", "*videodatainfo*.json", "MSRVTT_data.json")
    captions: dict[str | int, list[str]] = defaultdict(list)
    for key, row in json_rows(path, "sentences"):
        caption = require_text(key, row.get("caption"), "the caption")
        captions[require_id(key, row, "video_id")].append(caption)
    videos = MediaFolder(data, "video")
    questions = [
        Question(
            id=str(row["video_id"]),
            medium=Medium(videos.find(key, f"{row['video_id']}.mp4")),
            text=QUESTION,
            references=tuple(captions[row["video_id"]]),
        )
        for key, row in json_rows(path, "videos")
        if require_id(key, row, "video_id") in captions and row.get("split", "test") == "test"
    ]
    return QuestionSet(tuple(questions), (path,))


TASK = Task(
    name="msrvtt-captions",
    about="clips of 10 to 30 seconds, a caption measured by CIDEr",
    expects="test_videodatainfo.json and the clips (video7010.mp4, ...)",
    load=load,
    measure=measure_captions,
    max_new_tokens=64,
)

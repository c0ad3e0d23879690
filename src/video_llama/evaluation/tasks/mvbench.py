"""MVBench (Li et al. 2024), and what is written like it: multiple choice about videos.

    json/*.json   a file for each of the twenty kinds, or other files of this form:
                  [{"video": "ZS9XR.mp4", "question": "...", "candidates": ["...", "...", ...],
                    "answer": "...", "start": 11.1, "end": 19.6}, ...]
    video/        star/Charades_v1_480/ZS9XR.mp4, ...: as published, or in any folder

"answer" is one of the candidates. Where a kind is about a stretch of its video, only what lies
between "start" and "end" (seconds) is shown and heard. "Episodic reasoning" has folders of frames
at 3 a second instead of videos. Chance is one option at random: 27 % on all twenty kinds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_llama.data.sample import require_field, require_text
from video_llama.errors import DataError
from video_llama.evaluation.files import MediaFolder, find_files, json_rows
from video_llama.evaluation.metrics import measure_choice
from video_llama.evaluation.task import Medium, Question, QuestionSet, Task
from video_llama.evaluation.texts import LETTERS

FRAMES_PER_SECOND = 3.0  # in folders of frames
_LATEST = 1e9  # seconds: no video lasts as long
# The published folder of a kind, and whether it is about a stretch of the video.
KINDS: dict[str, tuple[str, bool]] = {
    "action_sequence": ("star/Charades_v1_480", True),
    "action_prediction": ("star/Charades_v1_480", True),
    "action_antonym": ("ssv2_video", False),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", False),
    "unexpected_action": ("FunQA_test/test", False),
    "object_existence": ("clevrer/video_validation", False),
    "object_interaction": ("star/Charades_v1_480", True),
    "object_shuffle": ("perception/videos", False),
    "moving_direction": ("clevrer/video_validation", False),
    "action_localization": ("sta/sta_video", True),
    "scene_transition": ("scene_qa/video", False),
    "action_count": ("perception/videos", False),
    "moving_count": ("clevrer/video_validation", False),
    "moving_attribute": ("clevrer/video_validation", False),
    "state_change": ("perception/videos", False),
    "fine_grained_pose": ("nturgbd", False),
    "character_order": ("perception/videos", False),
    "egocentric_navigation": ("vlnqa", False),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", True),
    "counterfactual_inference": ("clevrer/video_validation", False),
}
SOURCES = {folder.split("/")[0] for folder, _ in KINDS.values()}


def load(data: Path) -> QuestionSet:
    """The questions of all files that are there."""
    paths = find_files(data, "json/*.json", "*.json")
    videos = MediaFolder(data, "video")
    questions = [
        _question(key, row, path.stem, videos) for path in paths for key, row in json_rows(path)
    ]
    kinds = {path.stem for path in paths}
    missing = [kind for kind in KINDS if kind not in kinds]
    notes = () if not missing or kinds.isdisjoint(KINDS) else (f"not there: {', '.join(missing)}",)
    return QuestionSet(tuple(questions), tuple(paths), notes)


def choice_text(question: str, options: Sequence[str]) -> str:
    """A question with its options and how to answer."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join(
        [question, "Options:", *lines, "Answer with the letter of the best option only."]
    )


def _question(key: str, row: dict[str, Any], kind: str, videos: MediaFolder) -> Question:
    options = _options(key, row)
    answer = str(require_field(key, row, "answer"))
    if answer not in options:
        raise DataError(f"{key}: the answer {answer[:60]!r} is none of the candidates")
    folder, stretch = KINDS.get(kind, ("", "start" in row and "end" in row))
    path = videos.find(
        key,
        require_field(key, row, "video"),
        under=(f"video/{folder}", folder, f"video/{kind}"),
        # "video_10009.mp4" is one thing in CLEVRER, and another in the Perception Test.
        of_others=SOURCES - {folder.split("/")[0]} if folder else (),
    )
    start, end = (_seconds(key, row, name) if stretch else None for name in ("start", "end"))
    return Question(
        id=key,
        medium=Medium(path, start, end, fps=FRAMES_PER_SECOND if path.is_dir() else None),
        text=choice_text(require_text(key, row.get("question"), "the question").strip(), options),
        references=(answer,),
        kind=kind.replace("_", " "),
        options=options,
    )


def _options(key: str, row: dict[str, Any]) -> tuple[str, ...]:
    options = require_field(key, row, "candidates")
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"{key}: 'candidates' must be a list of 2 to {len(LETTERS)} options")
    return tuple(map(str, options))


def _seconds(key: str, row: dict[str, Any], name: str) -> float:
    value = require_field(key, row, name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -_LATEST < value < _LATEST:
        raise DataError(f"{key}: {name!r} must be a number of seconds")
    return float(value)


TASK = Task(
    name="mvbench",
    about="videos, multiple choice in twenty kinds",
    expects="json/*.json and video/, as published",
    load=load,
    measure=measure_choice,
    max_new_tokens=48,
)

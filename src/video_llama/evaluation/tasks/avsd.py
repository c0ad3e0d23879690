"""AVSD (Alamri et al. 2019; DSTC7): dialogues about everyday videos; the last answer is asked for.

    *test_set4DSTC7-AVSD.json   {"dialogs": [{"image_id": "7UPGT", "caption": "...",
                                 "dialog": [{"question": "...", "answer": "..."}, ...]}, ...]}
    *multiref.json              (optional) six true answers to each last question, as COCO has
                                captions: {"images": [{"id": 0, "name": "7UPGT_9"}, ...],
                                "annotations": [{"image_id": 0, "caption": "..."}, ...]}
    *.mp4                       "7UPGT.mp4" (of Charades), in any folder

The official test file hides the last answer behind "__UNDISCLOSED__": then the file with several
references, or the labelled one ("lbl_test_set4DSTC7-AVSD.json"), must be there. Files named
"lbl_undisclosed*" are left out: their dialogues are the last turn alone. The questions and answers
before the last stand in the prompt as a conversation; the written caption does not.

CIDEr is of answers whose contractions are written out, "doesn't" as "does not". That is in the
spirit of the challenge, and not its script: the numbers are near those of the challenge, not equal.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from video_llama.data.sample import require_id, require_mapping, require_text
from video_llama.errors import DataError
from video_llama.evaluation.captioning import caption_scores
from video_llama.evaluation.files import MediaFolder, find_files, json_rows, matching, read_json
from video_llama.evaluation.metrics import measure_open
from video_llama.evaluation.task import Answered, Measured, Medium, Question, QuestionSet, Task

HIDDEN = "__UNDISCLOSED__"
ONE_TURN = "lbl_undisclosed"  # begins the names of files that have the last turn alone

# Contractions that can only be read in one way, also with a space before them ("does n't").
_CONTRACTIONS = (
    (re.compile(r"\bca\s*n't\b", re.I), "can not"),
    (re.compile(r"\bwo\s*n't\b", re.I), "will not"),
    (re.compile(r"\bsha\s*n't\b", re.I), "shall not"),
    (re.compile(r"(?<=\w)(?<!\bai)\s*n't\b", re.I), " not"),
    (re.compile(r"\b(he|she|it|that|there|here|what)\s*'s\b", re.I), r"\1 is"),
    (re.compile(r"(?<=\w)\s*'re\b", re.I), " are"),
    (re.compile(r"(?<=\w)\s*'ll\b", re.I), " will"),
    (re.compile(r"(?<=\w)\s*'ve\b", re.I), " have"),
    (re.compile(r"\b(i)\s*'m\b", re.I), r"\1 am"),
)


def load(data: Path) -> QuestionSet:
    """The last question of each dialogue."""
    path, references = _files(data)
    others = _references(references) if references else {}
    videos = MediaFolder(data, "video")
    questions = []
    for key, row in json_rows(path, "dialogs"):
        name = require_id(key, row, "image_id")
        *before, (question, answer) = _turns(key, row.get("dialog"))
        true = others.get(f"{name}_{len(before)}", () if answer == HIDDEN else (answer,))
        if not true:
            raise DataError(
                f"{key}: the last answer is hidden; put lbl_{path.name.removeprefix('lbl_')} or "
                "the file with several references beside it"
            )
        questions.append(
            Question(
                id=f"{name}_{len(before)}",
                medium=Medium(videos.find(key, f"{name}.mp4")),
                text=question,
                references=tuple(true),
                before=tuple(before),
            )
        )
    return QuestionSet(tuple(questions), (path, *([references] if references else [])))


def measure(answered: Sequence[Answered]) -> Measured:
    """Shares as for other open answers, and CIDEr, which the challenge ranks by.

    CIDEr compares answers with their contractions written out, which is not the challenge's script.
    """
    shares = measure_open(answered)
    scores, chance = caption_scores([_written_out(one) for one in answered])
    mean = round(sum(scores) / len(scores), 4)
    return replace(
        shares,
        metrics={"cider": mean, **shares.metrics},
        chance={**shares.chance, "cider": chance},
        chance_rule=f"exact, contains: {shares.chance_rule}; cider: the answer to another question",
    )


def write_out(answer: str) -> str:
    """An answer without contractions: "he doesn't" -> "he does not". "The dog's" may be of the dog,
    and "he'd" may be had or would; they stay."""
    answer = answer.replace("’", "'")
    for contraction, words in _CONTRACTIONS:
        answer = contraction.sub(words, answer)
    return answer


def _written_out(one: Answered) -> Answered:
    references = tuple(write_out(reference) for reference in one.question.references)
    return Answered(replace(one.question, references=references), write_out(one.prediction))


def _files(data: Path) -> tuple[Path, Path | None]:
    """The dialogues, labelled ones before others, and the file of several references if any."""
    several = matching(data, "*multiref.json")
    found = [
        path
        for path in find_files(data, "lbl_test_set*.json", "*test_set*.json")
        if path not in several and not path.name.startswith(ONE_TURN)
    ]
    if len(found) != 1 or len(several) > 1:
        names = ", ".join(path.name for path in (found or [])) or "none"
        raise DataError(f"{data} must have one file of dialogues (*test_set*.json), not {names}")
    return found[0], several[0] if several else None


def _turns(key: str, dialogue: Any) -> list[tuple[str, str]]:
    if not isinstance(dialogue, list) or not dialogue:
        raise DataError(f"{key}: 'dialog' must be a list of questions and answers")
    turns = [require_mapping(key, turn) for turn in dialogue]
    return [
        (
            require_text(key, turn.get("question"), "a question").strip(),
            require_text(key, turn.get("answer"), "an answer").strip(),
        )
        for turn in turns
    ]


def _references(path: Path) -> dict[str, list[str]]:
    held = read_json(path)
    if not isinstance(held, dict):
        raise DataError(f"{path.name} must hold an object with 'images' and 'annotations'")
    names = {row.get("id"): row.get("name") for _, row in json_rows(path, "images")}
    found: dict[str, list[str]] = defaultdict(list)
    for key, row in json_rows(path, "annotations"):
        name = names.get(require_id(key, row, "image_id"))
        if name is None:
            raise DataError(f"{key}: there is no image {row['image_id']!r} in the file")
        found[name].append(require_text(key, row.get("caption"), "the caption"))
    return found


TASK = Task(
    name="avsd",
    about="dialogues about videos with sound, the last answer",
    expects="test_set4DSTC7-AVSD.json, true answers and the videos (7UPGT.mp4, ...)",
    load=load,
    measure=measure,
    max_new_tokens=64,
    open_answers=True,
)

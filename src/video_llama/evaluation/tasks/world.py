"""The synthetic world's own questions, in English and Chinese, on scenes that are never trained on.

    world.jsonl   as `video-llama world` writes it: each file with its number and its questions
    world.json    size, length and frame rate of the files
    *.mp4, *.png, *.wav

Without a folder one is made, of scenes from `HELD_OUT_SEED` on. An answer is right when it says the
facts, in whatever words; see `data.world.answers`. Chance is what the true answers reach when they
are dealt out anew among the questions of one row of the table and one language. Rows that have only
yes or only no for an answer share theirs.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from video_llama.data.sample import require_field
from video_llama.data.world.answers import QA, Language
from video_llama.data.world.questions import questions, score, words_in
from video_llama.data.world.scene import HELD_OUT_SEED, scene_from_seed
from video_llama.data.world.write import LISTING, SETTINGS, item_scene, write_items
from video_llama.errors import DataError, OptionError
from video_llama.evaluation.files import find_file, line_rows
from video_llama.evaluation.task import (
    Answered,
    Measured,
    Medium,
    Question,
    QuestionSet,
    Task,
    drawn,
)

SCENES = 300  # as many as there are, unless a folder with others is given
YES_NO = ("yesno",)
DEALS = 20  # shuffles for the chance level
CHANCE_RULE = (
    "the true answers dealt out anew within a row and language, those of yes and of no together"
)


def make(folder: Path, limit: int | None) -> None:
    """Write the held-out scenes: all, or those that a sample of so many questions is about."""
    numbers = range(HELD_OUT_SEED, HELD_OUT_SEED + SCENES)
    if limit is not None:
        numbers_by_id = {
            _id(number, qa): number
            for number in numbers
            for language in get_args(Language)
            for qa in questions(item_scene(number), language)
        }
        chosen = drawn(numbers_by_id, limit)
        numbers = sorted({numbers_by_id[name] for name in chosen})
    write_items(folder, numbers)


def load(data: Path) -> QuestionSet:
    """The questions about all files of the listing."""
    path = find_file(data, LISTING)
    found: list[Question] = []
    trained = 0
    for key, row in line_rows(path):
        trained += _number(key, row) < HELD_OUT_SEED
        for language in get_args(Language):
            found += _questions(key, row, language, data)
    notes = (f"{trained} scenes have numbers that training may have used",) if trained else ()
    # The questions follow from the numbers (see `_questions`); how it was drawn does not.
    return QuestionSet(tuple(found), (find_file(data, SETTINGS),), notes)


def measure(answered: Sequence[Answered]) -> Measured:
    """Accuracy by kind of question and language, and how often yes is said."""
    right = tuple(score(one.question.facts, one.prediction) for one in answered)
    chances = dealt_out([(_pool(one.question.kind), one.question.facts) for one in answered])
    rows: dict[str, list[tuple[Answered, bool, float]]] = defaultdict(list)
    for one, hit, chance in zip(answered, right, chances, strict=True):
        rows[one.question.kind].append((one, hit, chance))
    yes_no = [one for one in answered if _asks_whether(one.question.facts)]
    return Measured(
        metrics={
            "accuracy": round(sum(right) / len(right), 4),
            "yes_share": _share(_says_yes(one.question.facts, one.prediction) for one in yes_no),
            "yes_true": _share("yes" in one.question.facts.answer_words for one in yes_no),
            "by_kind": {kind: _row(rows[kind]) for kind in sorted(rows)},
        },
        chance={"accuracy": round(sum(chances) / len(chances), 4)},
        right=right,
        chance_rule=CHANCE_RULE,
    )


def question_kind(qa: QA, scene_kind: str) -> str:
    """The row of the table a question belongs to."""
    if "no sound" in qa.answer_words or "no picture" in qa.answer_words:
        return "missing stream"
    if qa.kind in ("presence", "audible"):
        return f"{qa.kind} ({qa.answer_words[0]})"
    if qa.kind in ("sound", "both", "describe"):
        return f"{qa.kind} of {scene_kind}"
    return qa.kind


def _pool(kind: str) -> str:
    """What a row shares its chance level with: alone, all answers of "presence (yes)" are yes."""
    return kind.removesuffix(" (yes)").removesuffix(" (no)")


def _questions(key: str, row: dict[str, Any], language: Language, data: Path) -> list[Question]:
    """The questions of a scene, drawn anew from its number, which must be those of the listing."""
    number, kind = _number(key, row), str(require_field(key, row, "kind"))
    written = require_field(key, row, "questions")
    try:
        scene = scene_from_seed(number, kind, seconds=float(row.get("seconds") or 4.0))  # pyrefly: ignore[bad-argument-type]
    except OptionError as error:
        raise DataError(f"{key}: {error}") from None
    drawn = questions(scene, language)
    listed = written.get(language, []) if isinstance(written, dict) else []
    if [(qa.question, qa.answer) for qa in drawn] != [
        (one.get("question"), one.get("answer")) for one in listed
    ]:
        raise DataError(
            f"{key}: the questions are those of another version of the world; "
            "write it again with 'video-llama world'"
        )
    return [
        Question(
            id=_id(number, qa),
            medium=Medium(data / str(require_field(key, row, "file"))),
            text=qa.question,
            references=(qa.answer,),
            kind=question_kind(qa, scene.kind),
            facts=qa,
        )
        for qa in drawn
    ]


def _id(number: int, qa: QA) -> str:
    return f"{number}/{qa.language}/{qa.kind}"


def _asks_whether(qa: QA) -> bool:
    """Whether it asks if something is seen or heard, and there is a picture or a sound at all."""
    return qa.kind in ("presence", "audible") and qa.classes == YES_NO


def _says_yes(qa: QA, answer: str) -> bool:
    return words_in(answer, qa.language, YES_NO)[:1] == ["yes"]


def _number(key: str, row: dict[str, Any]) -> int:
    number = require_field(key, row, "seed")
    if not isinstance(number, int):
        raise DataError(f"{key}: the seed must be a number")
    return number


def _row(rows: Sequence[tuple[Answered, bool, float]]) -> dict[str, float | None]:
    return {
        "n": len(rows),
        "accuracy": _share(hit for _, hit, _ in rows),
        **{
            name: _share(hit for one, hit, _ in rows if one.question.facts.language == language)
            for name, language in (("english", "en"), ("chinese", "zh"))
        },
        "chance": round(sum(chance for _, _, chance in rows) / len(rows), 4),
    }


def dealt_out(asked: Sequence[tuple[str, QA]]) -> list[float]:
    """For each question, how often a true answer to another one of its pool and language is right.

    "Another" is drawn at random, and may be the same: answers are shuffled within their group. Few
    times for one question: the figures are for means.

    Args:
        asked: each question with the name of its pool.
    """
    rng = random.Random(0)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (pool, qa) in enumerate(asked):
        groups[pool, qa.language].append(place)
    right = [0] * len(asked)
    for _, places in sorted(groups.items()):
        answers = [asked[place][1].answer for place in places]
        for _ in range(DEALS):
            rng.shuffle(answers)
            for place, answer in zip(places, answers, strict=True):
                right[place] += score(asked[place][1], answer)
    return [count / DEALS for count in right]


def _share(values: Iterable[bool]) -> float | None:
    """The share of true ones; None of nothing."""
    counted = list(values)
    return round(sum(counted) / len(counted), 4) if counted else None


TASK = Task(
    name="world",
    about="the synthetic world, questions by kind in English and Chinese",
    expects="world.jsonl and its files, as 'video-llama world' writes them",
    load=load,
    measure=measure,
    max_new_tokens=48,
    make=make,
)

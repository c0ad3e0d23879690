"""The paper's claim on real things: what is seen, and what is heard by ears trained on pictures.

    claim.jsonl   a line for each file: {"part", "file", "seconds", "seed", "groups", "relation",
                  "sound"}, as `recipes/reproduce` writes it
    *.jpg, *.ogg, *.mp4

Parts are "picture" (photographs of the commonest things), "any" (of all things), "sound"
(recordings), "moving" (cut-outs that move) and "both" (a photograph with a recording). Questions
are the world's, in English and Chinese. "micro" is the share of right answers, "macro" the mean of
the shares of each thing. Chance is what the true answers reach when they are dealt out anew within
a row of the table and a language; the two rows of matching share theirs.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from video_llama.data.sample import require_field
from video_llama.data.world.answers import QA, Language, words_in
from video_llama.data.world.questions import questions, score
from video_llama.data.world.scene import Scene, scene_of_facts
from video_llama.data.world.things import NAMED
from video_llama.errors import DataError, OptionError
from video_llama.evaluation.files import find_file, line_rows
from video_llama.evaluation.task import Answered, Measured, Medium, Question, QuestionSet, Task
from video_llama.evaluation.tasks.world import CHANCE_RULE, dealt_out

LISTING = "claim.jsonl"
# What is asked about each part.
ASKED: dict[str, tuple[str, ...]] = {
    "picture": ("object",),
    "any": ("object",),
    "sound": ("sound",),
    "moving": ("motion", "object", "describe"),
    "both": ("both", "match"),
}


def load(data: Path) -> QuestionSet:
    """The questions about all files of the listing."""
    path = find_file(data, LISTING)
    found: list[Question] = []
    for key, row in line_rows(path):
        part, file = (str(require_field(key, row, name)) for name in ("part", "file"))
        if part not in ASKED:
            raise DataError(f"{key}: the part is one of {', '.join(ASKED)}, not {part!r}")
        scene = _scene(key, row)
        for language in get_args(Language):
            for qa in questions(scene, language, kinds=ASKED[part]):
                found.append(
                    Question(
                        id=f"{part}/{file}/{language}/{qa.kind}",
                        medium=Medium(data / file),
                        text=qa.question,
                        references=(qa.answer,),
                        kind=_kind(part, qa, scene),
                        facts=(qa, scene),
                    )
                )
    return QuestionSet(tuple(found), (path,))


def measure(answered: Sequence[Answered]) -> Measured:
    """Shares by kind of question: over all, the mean over things, and in each language."""
    right = tuple(score(one.question.facts[0], one.prediction) for one in answered)
    chances = dealt_out([(_pool(one.question.kind), one.question.facts[0]) for one in answered])
    rows: dict[str, list[tuple[Answered, bool, float]]] = defaultdict(list)
    for one, hit, chance in zip(answered, right, chances, strict=True):
        rows[one.question.kind].append((one, hit, chance))
    kinds = {kind: _row(rows[kind]) for kind in sorted(rows)}
    return Measured(
        metrics={
            "accuracy": _mean(right),
            "match_balanced": _mean(
                kinds[kind]["micro"]
                for kind in ("match, agreeing", "match, contradicting")
                if kind in kinds
            ),
            **_verbs(answered),
            "by_kind": kinds,
        },
        chance={"accuracy": _mean(chances), "match_balanced": 0.5},
        right=right,
        chance_rule=CHANCE_RULE,
    )


def _scene(key: str, row: dict[str, Any]) -> Scene:
    seconds, seed = require_field(key, row, "seconds"), require_field(key, row, "seed")
    try:
        return scene_of_facts(row, seconds=float(seconds), seed=int(seed))
    except (KeyError, TypeError, ValueError, OptionError) as error:
        raise DataError(f"{key}: no scene has these facts: {error}") from None


def _kind(part: str, qa: QA, scene: Scene) -> str:
    if part == "both":
        agreeing = "agreeing" if scene.sound_matches else "contradicting"
        return f"{'match' if qa.kind == 'match' else 'seen and heard'}, {agreeing}"
    if part == "moving":
        return {"motion": "motion", "object": "moving thing", "describe": "thing and motion"}[
            qa.kind
        ]
    return {"picture": "picture", "any": "picture of anything", "sound": "sound"}[part]


def _pool(kind: str) -> str:
    """What a row shares its chance level with: alone, all answers of "match, agreeing" are yes."""
    return "match" if kind.startswith("match, ") else kind


def _row(rows: Sequence[tuple[Answered, bool, float]]) -> dict[str, float]:
    of_thing: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for one, hit, chance in rows:
        scene = one.question.facts[1]
        of_thing[scene.sound or scene.things[0]].append((hit, chance))
    return {
        "n": len(rows),
        "things": len(of_thing),
        "micro": _mean(hit for _, hit, _ in rows),
        "macro": _mean(_mean(hit for hit, _ in one) for one in of_thing.values()),
        **{
            name: _mean(hit for one, hit, _ in rows if one.question.facts[0].language == language)
            for name, language in (("english", "en"), ("chinese", "zh"))
        },
        "chance": _mean(chance for _, _, chance in rows),
        "macro_chance": _mean(_mean(chance for _, chance in one) for one in of_thing.values()),
    }


def _verbs(answered: Sequence[Answered]) -> dict[str, float | None]:
    """Of answers that name what is heard, how many say that it is heard, and how it sounds."""
    said = []
    for one in answered:
        qa, scene = one.question.facts
        if one.question.kind != "sound" or words_in(one.prediction, qa.language, ("thing",)) != [
            scene.sound
        ]:
            continue
        thing = NAMED[scene.sound]
        hear, verb = ("hear", thing.sound) if qa.language == "en" else ("听", thing.sound_zh)
        said.append(hear in one.prediction and verb in one.prediction)
    return {"verb_given_thing": _mean(said) if said else None, "thing_given": len(said)}


def _mean(values: Any) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4) if values else 0.0


TASK = Task(
    name="claim",
    about="photographs, recordings and both: what is seen, and what pictures taught to hear",
    expects="claim.jsonl and its files, as recipes/reproduce writes them",
    load=load,
    measure=measure,
    max_new_tokens=48,
)

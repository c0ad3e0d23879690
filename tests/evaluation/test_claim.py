"""The set of real things: what is asked about each part, and how answers are counted."""

import json

import pytest

from video_llama.data.world.scene import Group, Scene
from video_llama.errors import DataError
from video_llama.evaluation.task import Answered
from video_llama.evaluation.tasks import get_task
from video_llama.evaluation.tasks.claim import ASKED, LISTING

HORSE = Group("horse", None)
SCENES = {
    "picture": Scene((HORSE,), seconds=0.0, seed=1),
    "any": Scene((Group("pizza", None),), seconds=0.0, seed=2),
    "sound": Scene((), sound="cow", seconds=5.0, seed=3),
    "moving": Scene((Group("horse", None, 1, "left"),), seed=4),
    "both": Scene((Group("cow", None),), sound="cow", seed=5),
}
CONTRADICTING = Scene((HORSE,), sound="cow", seed=6)


def write_listing(folder, rows):
    lines = [
        json.dumps(
            {"part": part, "file": f"{number}.jpg", "seconds": s.seconds, "seed": s.seed}
            | s.facts()
        )
        for number, (part, s) in enumerate(rows)
    ]
    (folder / LISTING).write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def asked(tmp_path):
    rows = [*SCENES.items(), ("both", CONTRADICTING)]
    return get_task("claim").load(write_listing(tmp_path, rows)).questions


def answers(questions, of):
    return [Answered(question, of(question)) for question in questions]


def test_every_part_is_asked_in_both_languages(asked):
    assert len({question.id for question in asked}) == len(asked)
    assert len(asked) == 2 * (sum(map(len, ASKED.values())) + len(ASKED["both"]))
    assert {question.kind for question in asked} == {
        "picture",
        "picture of anything",
        "sound",
        "motion",
        "moving thing",
        "thing and motion",
        "seen and heard, agreeing",
        "seen and heard, contradicting",
        "match, agreeing",
        "match, contradicting",
    }


def test_true_answers_count_fully(asked):
    measured = get_task("claim").measure(answers(asked, lambda q: q.references[0]))
    assert measured.metrics["accuracy"] == 1.0
    assert measured.metrics["match_balanced"] == 1.0
    assert measured.metrics["verb_given_thing"] == 1.0
    for row in measured.metrics["by_kind"].values():
        assert row["micro"] == row["macro"] == row["english"] == row["chinese"] == 1.0


def test_always_yes_is_half_right_about_matching(asked):
    measured = get_task("claim").measure(
        answers(asked, lambda q: "Yes." if q.facts[0].language == "en" else "是的。")
    )
    assert measured.metrics["match_balanced"] == 0.5
    assert measured.metrics["by_kind"]["sound"]["micro"] == 0.0
    assert measured.metrics["by_kind"]["match, agreeing"]["micro"] == 1.0


def test_a_thing_named_without_its_sound_is_told_apart(asked):
    sounds = [question for question in asked if question.kind == "sound"]
    measured = get_task("claim").measure(
        answers(sounds, lambda q: "I see a cow." if q.facts[0].language == "en" else "我看到牛。")
    )
    assert measured.metrics["by_kind"]["sound"]["micro"] == 1.0
    assert measured.metrics["verb_given_thing"] == 0.0


def test_the_mean_over_things_is_not_the_share_of_answers(tmp_path):
    rows = [
        ("sound", Scene((), sound=name, seconds=5.0, seed=seed))
        for seed, name in enumerate(["cow", "cow", "cow", "rain"])
    ]
    questions = get_task("claim").load(write_listing(tmp_path, rows)).questions
    said = {"en": "I hear a cow mooing.", "zh": "我听到牛在叫。"}
    row = (
        get_task("claim")
        .measure(answers(questions, lambda q: said[q.facts[0].language]))
        .metrics["by_kind"]["sound"]
    )
    assert (row["n"], row["things"], row["micro"], row["macro"]) == (8, 2, 0.75, 0.5)
    assert 0.4 < row["chance"] < 0.9
    assert 0.4 < row["macro_chance"] < row["chance"]


def test_chance_is_that_of_the_row_alone(tmp_path):
    """Photographs of many things beside moving ones of two: those are guessed half of the time."""
    names = ["cow", "dog", "cat", "horse", "ship", "car", "frog", "bird"]
    still = [
        ("any", Scene((Group(name, None),), seconds=0.0, seed=seed))
        for seed, name in enumerate(8 * names)
    ]
    moving = [
        ("moving", Scene((Group(name, None, 1, "left"),), seconds=4.0, seed=100 + seed))
        for seed, name in enumerate(8 * ["cow", "dog"])
    ]
    questions = get_task("claim").load(write_listing(tmp_path, still + moving)).questions
    rows = get_task("claim").measure(answers(questions, lambda q: "")).metrics["by_kind"]
    assert 0.4 < rows["moving thing"]["chance"] < 0.6
    assert 0.08 < rows["picture of anything"]["chance"] < 0.18
    assert rows["motion"]["chance"] == 1.0  # there is one answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": "smell"}, "the part is one of"),
        ({"sound": "thunder"}, "thunder"),
        ({"groups": [{"thing": "horse"}]}, "no scene has these facts"),
    ],
)
def test_lines_that_cannot_be(tmp_path, change, message):
    facts = {"file": "a.ogg", "part": "sound", "seconds": 5.0, "seed": 1}
    line = facts | SCENES["sound"].facts() | change
    (tmp_path / LISTING).write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        get_task("claim").load(tmp_path)

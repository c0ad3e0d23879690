import random
import re
from collections import Counter, defaultdict

import pytest

from video_llama.data.world.phrasings import CHINESE, ENGLISH
from video_llama.data.world.questions import QA, QUESTION_KINDS, questions, score
from video_llama.data.world.scene import Group, Scene, scene_from_seed
from video_llama.data.world.things import COLOURS, MOTIONS, SOUNDING, THINGS
from video_llama.errors import OptionError

SCENES = [
    scene_from_seed(seed, kind) for kind in ("video", "image", "audio") for seed in range(400)
]
DOG = Scene((Group("dog", "red", 2, "left"),), sound="bell", seed=1)
TWO = Scene(
    (Group("dog", "orange", 1, "left"), Group("cat", "blue", 3, "away")),
    relation="then",
    sound="cat",
    seed=1,
)
SIDE = Scene((Group("bird", "white"), Group("tree", "black", 2)), relation="beside", seconds=0.0)
NOISE = Scene((), sound="train", seconds=2.0)


def ask(scene: Scene, kind: str, language: str = "en", seed: int = 0) -> QA:
    (qa,) = questions(scene, language, kinds=[kind], rng=random.Random(seed))  # type: ignore[arg-type]
    return qa


@pytest.mark.parametrize(
    ("scene", "kind", "english", "chinese"),
    [
        (DOG, "object", "Two dogs.", "两只狗。"),
        (TWO, "object", "A dog and three cats.", "一只狗和三只猫。"),
        (DOG, "colour", "The dogs are red.", "狗是红色的。"),
        (DOG, "count", "There are two dogs.", "有两只狗。"),
        (DOG, "motion", "The dogs move left.", "狗向左移动。"),
        (TWO, "order", "First a dog, then three cats.", "先是一只狗，然后是三只猫。"),
        (DOG, "sound", "I hear a bell ringing.", "我听到铃铛在响。"),
        (SIDE, "sound", "There is no sound.", "没有声音。"),
        (NOISE, "sound", "I hear a train passing.", "我听到火车在开。"),
        (NOISE, "object", "There is no picture.", "没有画面。"),
        (NOISE, "match", "There is no picture.", "没有画面。"),
        (SIDE, "match", "There is no sound.", "没有声音。"),
        (TWO, "match", "Yes, the sound matches the picture.", "是的，声音和画面一致。"),
        (DOG, "match", "No, I see two dogs but I hear a bell.", "不，我看到两只狗，但是听到铃铛。"),
        (SIDE, "audible", "No, there is no sound.", "不，没有声音。"),
        (DOG, "describe", "Two red dogs move left.", "两只红色的狗向左移动。"),
        (
            TWO,
            "describe",
            "First an orange dog moves left, then three blue cats go away.",
            "先是一只橙色的狗向左移动，然后是三只蓝色的猫在远离。",
        ),
        (
            SIDE,
            "describe",
            "There is a white bird and two black trees.",
            "有一只白色的鸟和两棵黑色的树。",
        ),
        (NOISE, "describe", "I hear a train passing.", "我听到火车在开。"),
        (DOG, "both", "I see two dogs and I hear a bell ringing.", "我看到两只狗，听到铃铛在响。"),
        (
            NOISE,
            "both",
            "There is no picture and I hear a train passing.",
            "没有画面，我听到火车在开。",
        ),
        (
            SIDE,
            "both",
            "I see a bird and two trees and there is no sound.",
            "我看到一只鸟和两棵树，没有声音。",
        ),
    ],
)
def test_answers_say_the_facts(scene, kind, english, chinese):
    assert ask(scene, kind).answer == english
    assert ask(scene, kind, "zh").answer == chinese


def test_place_names_the_thing_on_the_side_that_was_asked_for():
    for seed in range(10):
        qa = ask(SIDE, "place", seed=seed)
        left = "left" in qa.question.lower()
        assert qa.answer == ("The bird is on the left." if left else "The trees are on the right.")


def test_yes_and_no_are_true_of_the_thing_in_the_question():
    answers = defaultdict(Counter)
    for scene in SCENES:
        for qa in questions(scene, kinds=["presence", "audible"], rng=random.Random(scene.seed)):
            if "missing" in qa.classes:
                continue
            name = re.search(rf"\b({'|'.join(THINGS)})", qa.question.lower())
            assert name
            there = name[1] in (scene.things if qa.kind == "presence" else [scene.sound])
            assert qa.answer_words == (("yes",) if there else ("no",))
            assert qa.answer.startswith("Yes" if there else "No")
            if qa.kind == "presence" or scene.sound:
                answers[qa.kind][there] += 1
    for counted in answers.values():
        assert 0.44 < counted[True] / counted.total() < 0.56


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_answer_is_right_and_other_answers_of_its_kind_are_wrong(language):
    told = defaultdict(list)
    for scene in SCENES:
        for qa in questions(scene, language, kinds=QUESTION_KINDS):
            assert score(qa, qa.answer), qa
            told[qa.kind].append(qa)
    assert set(told) == set(QUESTION_KINDS)
    rng = random.Random(0)
    for asked in told.values():
        for qa in rng.choices(asked, k=150):
            other = rng.choice(asked)
            same = qa.answer_words == other.answer_words or (
                not qa.ordered and set(qa.answer_words) == set(other.answer_words)
            )
            if qa.classes == other.classes:
                assert score(qa, other.answer) == same


def test_score_reads_free_words():
    motion = ask(DOG, "motion")
    assert score(motion, "they go LEFT")
    assert not score(motion, "They move left and right.")
    assert not score(motion, "")
    assert score(ask(DOG, "count"), "2 dogs")
    assert not score(ask(DOG, "count"), "There are two or three dogs.")
    assert score(ask(TWO, "order"), "A dog, and after it cats")
    assert not score(ask(TWO, "order"), "First three cats, then a dog.")
    assert score(ask(TWO, "object"), "Cats and a dog")
    assert not score(ask(TWO, "object"), "A dog.")
    assert not score(
        ask(TWO, "describe"), "First a blue dog moves left, then three orange cats go away."
    )
    assert score(ask(TWO, "match"), "yes")
    assert not score(ask(TWO, "match"), "No, yes")
    assert not score(ask(DOG, "sound"), "There is no sound.")
    assert score(ask(SIDE, "sound"), "I think there is no sound here")
    assert score(ask(DOG, "motion", "zh"), "往左 向左走")
    assert not score(ask(DOG, "motion", "zh"), "向右移动")
    assert score(ask(DOG, "match", "zh"), "不一致")
    assert not score(ask(SIDE, "sound", "zh"), "我听到狗在叫。")


def test_questions_are_repeatable_and_the_same_thing_is_asked_in_both_languages():
    for scene in SCENES[:60]:
        english, chinese = questions(scene), questions(scene, "zh")
        assert english == questions(scene)
        assert [q.kind for q in english] == [q.kind for q in chinese]
        assert [q.answer_words for q in english] == [q.answer_words for q in chinese]


def test_what_is_missing_is_asked_about_once():
    for scene in SCENES:
        kinds = Counter(qa.kind for qa in questions(scene))
        assert max(kinds.values()) == 1
        if scene.kind == "audio":
            assert {"sound", "audible", "describe", "both"} < set(kinds)
            assert len(kinds) == 5
        elif scene.sound is None:
            assert len(set(kinds) & {"sound", "match", "audible", "both"}) == 1
        assert ("order" in kinds) == (scene.relation == "then")
        assert ("place" in kinds) == (scene.relation == "beside")


def test_there_are_many_phrasings_in_a_small_vocabulary():
    assert tuple(ENGLISH) == tuple(CHINESE)
    assert set(ENGLISH) == set(QUESTION_KINDS)
    assert min(len(ways.any) for ways in ENGLISH.values()) >= 8
    assert min(len(ways.any) for ways in CHINESE.values()) >= 5
    text = [" ".join((qa.question, qa.answer)).lower() for s in SCENES for qa in questions(s, "en")]
    assert not any("{" in line for line in text)
    words = {word for line in text for word in re.findall(r"[a-z']+", line)}
    assert words >= {*THINGS, *COLOURS, *(m for m in MOTIONS)}
    assert words >= {THINGS[name].sound for name in SOUNDING}
    assert len(words) < 220
    chinese = {c for s in SCENES for qa in questions(s, "zh") for c in qa.question + qa.answer}
    assert len(chinese) < 200
    assert not any(c.isascii() for c in chinese)


def test_unknown_language_and_kind_are_refused():
    with pytest.raises(OptionError, match="known: en, zh"):
        questions(DOG, "de")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="known: object"):
        questions(DOG, kinds=["smell"])

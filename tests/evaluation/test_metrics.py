"""Numbers worked out by hand."""

from pathlib import Path

import pytest

from video_llama.evaluation.captioning import measure_captions
from video_llama.evaluation.metrics import measure_choice, measure_open, measure_yes_no
from video_llama.evaluation.task import Answered, Medium, Question


def answered(prediction, *references, kind="", options=()):
    question = Question(
        id=prediction,
        medium=Medium(Path("x.mp4")),
        text="?",
        references=references,
        kind=kind,
        options=options,
    )
    return Answered(question, prediction)


def test_open_answers():
    rows = [
        answered("dog", "dog", kind="what"),
        answered("I see a dog", "dog", kind="what"),
        answered("cat", "dog", kind="what"),
        answered("2", "three", "two", kind="how"),
    ]
    measured = measure_open(rows)
    assert measured.metrics == {
        "exact": 0.5,
        "contains": 0.75,
        "by_kind": {
            "how": {"n": 1, "exact": 1.0, "contains": 1.0},
            "what": {"n": 3, "exact": 0.3333, "contains": 0.6667},
        },
    }
    assert measured.right == (True, True, False, True)
    # "dog" is always right, and so is "two".
    assert measured.chance == {"exact": 1.0, "contains": 1.0}


def test_chance_of_open_answers_is_the_commonest():
    rows = [answered("x", word) for word in ("dog", "Dog.", "cat", "bird")]
    assert measure_open(rows).chance == {"exact": 0.5, "contains": 0.5}


def test_yes_and_no():
    rows = [
        answered("Yes", "yes"),
        answered("yes, it is", "no"),
        answered("yes", "no"),
        answered("No", "yes"),
        answered("no.", "no"),
        answered("A dog is there", "yes"),  # unclear: wrong, and no yes
    ]
    measured = measure_yes_no(rows)
    assert measured.metrics == {
        "accuracy": 0.3333,
        "precision": 0.3333,
        "recall": 0.3333,
        "f1": 0.3333,
        "f1_always_yes": 0.6667,
        "yes_share": 0.5,
        "yes_true": 0.5,
        "unclear": 0.1667,
    }
    assert measured.right == (True, False, False, False, True, False)
    assert measured.chance == {"accuracy": 0.5, "f1": 0.6667}


def test_always_yes_shows():
    rows = [answered("Yes", "yes" if number % 4 else "no", kind=str(number)) for number in range(8)]
    metrics = measure_yes_no(rows).metrics
    assert (metrics["yes_share"], metrics["yes_true"], metrics["recall"]) == (1.0, 0.75, 1.0)
    assert set(metrics["by_kind"]) == set("01234567")


def test_never_yes_divides_by_nothing():
    metrics = measure_yes_no([answered("No", "no")]).metrics
    assert (metrics["precision"], metrics["recall"], metrics["f1"]) == (0.0, 0.0, 0.0)


def test_multiple_choice():
    rows = [
        answered("(A)", "left", options=("left", "right")),
        answered("(A)", "right", options=("left", "right")),
        answered("hm", "b", options=("a", "b", "c", "d")),
    ]
    measured = measure_choice(rows)
    assert measured.metrics == {"accuracy": 0.3333, "unclear": 0.3333}
    assert measured.chance == {"accuracy": pytest.approx((0.5 + 0.5 + 0.25) / 3, abs=1e-4)}
    assert measured.right == (True, False, False)


def test_captions_of_their_own_media_are_far_above_chance():
    captions = ("a dog runs on grass", "two men ride bikes home", "rain falls on a roof")
    rows = [answered(caption, caption, caption.upper()) for caption in captions]
    measured = measure_captions(rows)
    assert measured.metrics == {"cider": 10.0, "words": 5.0}
    assert measured.chance["cider"] < 0.5
    assert measured.right == (10.0, 10.0, 10.0)

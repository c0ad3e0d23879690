"""What answers in free words are taken for."""

import pytest

from video_llama.evaluation.texts import chosen_option, normalise, same_words, says, yes_or_no


def test_normalised_words():
    assert normalise("  The dog's Ball -- it's RED!  ") == "dogs ball its red"
    assert normalise("Two cats, a Ten-foot pole") == "2 cats 10 foot pole"
    assert normalise("ＡＢＣ。狗") == "abc 狗"
    assert normalise("the") == ""


def test_the_same_words():
    assert same_words("A dog.", "dog")
    assert same_words("two", "2")
    assert not same_words("a hot dog", "dog")
    assert not same_words("", "")
    assert not same_words("The.", "a")


def test_words_among_others():
    assert says("There is a black dog on the grass.", "dog")
    assert says("There is a black dog on the grass.", "the black dog")
    assert not says("There are dogs.", "dog")
    assert not says("Cats.", "")
    assert says("我看到一只狗。", "狗")


def test_a_reference_of_yes_or_no_is_about_the_meaning():
    assert says("Yes, there is no doubt.", "yes")
    assert not says("Yes, there is no doubt.", "no")
    assert says("The dog is not there.", "no")


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("Yes.", "yes"),
        ("yes, there is no dog", "yes"),
        ("No, but yesterday there was.", "no"),
        ("**No**", "no"),
        ('"Yes"', "yes"),
        ("Nothing can be heard.", "no"),
        ("There isn't any dog. Yes.", "no"),
        ("The answer is yes. There is no cat.", "yes"),
        ("The answer is no.", "no"),
        ("Is it yes or no?", None),
        ("There is a dog.", None),
        ("Nobody knows", None),
        ("Yesterday it rained.", None),
        ("", None),
        ("有，有一只狗。", "yes"),
        ("没有。", "no"),
        ("不是。", "no"),
        ("对不起，我看不到。", None),
        ("对不起，没有。", "no"),
        ("对，有。", "yes"),
    ],
)
def test_yes_or_no(answer, meant):
    assert yes_or_no(answer) == meant


OPTIONS = ("moving left", "moving right", "a man", "a man and a dog")


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("B", 1),
        ("(B)", 1),
        ("b.", 1),
        ("(B) moving right", 1),
        ("**B) moving right**", 1),
        ("B moving right", 1),
        ("A moving left", 0),
        ("Option C", 2),
        ("The best option is (D).", 3),
        ("The answer is B.", 1),
        ("Answer: A", 0),
        ("I think it is (C), since he stands there.", 2),
        ("It is moving right.", 1),
        ("A man and a dog are seen.", 3),
        ("A man walks in.", 2),
        ("A dog.", None),
        ("(A) or (B)", None),
        ("moving left, then moving right", None),
        ("E", None),
        ("Because", None),
        ("", None),
    ],
)
def test_the_option_an_answer_takes(answer, number):
    assert chosen_option(answer, OPTIONS) == number


def test_options_of_the_same_words_are_not_one():
    assert chosen_option("a dog", ("The dog", "a dog", "cat")) is None
    assert chosen_option("no", ("yes", "no")) == 1


DIRECTIONS = ("left", "right", "up", "down")


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("B\n\nExplanation: the ball", 1),
        ("B\n\nThe ball does not go up.", 1),
        ("A\n\nThe ball does not go up.", 0),
        ("B is the correct answer.", 1),
        ("A is the correct answer.", 0),
        ("C is correct because nothing moves to the left.", 2),
        ("D because nothing moves up", 3),
        ("B since it moves", 1),
        ("B would be best", 1),
        ("B is wrong.", None),
        ("It's B.", 1),
        ("I think it is C, since nothing moves.", 2),
        ("It's B flat.", None),
        ("answer: b", 1),
        ("The answer is a.", 0),
        ("Answer: A\nIt moves.", 0),
        ("The answer is a ball.", None),
        ("A ball would go there.", None),
        ("B) to the right or (A) to the left", None),
        ("(B) to the right", 1),
    ],
)
def test_letters_before_an_explanation(answer, number):
    assert chosen_option(answer, DIRECTIONS) == number


@pytest.mark.parametrize("letter", ["A", "B", "D"])
@pytest.mark.parametrize(
    "said",
    [
        "Option {} is correct",
        "The answer is {} because the man runs.",
        "The answer is {} since it barks",
        "Answer: {} because it barks",
        "{} because it barks",
        "The correct option is {} as shown",
        "The answer is {} and not C",
        "{} would be right",
        "I choose option {} here",
    ],
)
def test_an_answer_is_read_alike_wherever_the_right_option_stands(said, letter):
    options = ("a dog", "a cat", "a bird", "nothing")
    assert chosen_option(said.format(letter), options) == "ABCD".index(letter)


@pytest.mark.parametrize(
    "said", ["The answer is A dog.", "A would-be thief", "Option A is wrong.", "I would say so"]
)
def test_articles_are_still_no_letters(said):
    assert chosen_option(said, ("one", "two", "three")) is None


def test_i_is_seldom_an_option():
    options = tuple("option number " + word for word in "abcdefghi")
    assert chosen_option("I would say nothing.", options) is None
    assert chosen_option("I'm not sure.", options) is None
    assert chosen_option("I is right.", options) == 8

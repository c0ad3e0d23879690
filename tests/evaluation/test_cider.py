"""CIDEr-D against numbers of pycocoevalcap 1.2, and against numbers worked out by hand."""

import math

import pytest

from video_llama.evaluation.cider import caption_words, cider

REFERENCES = [
    ["a dog runs on the grass", "the brown dog is running", "a dog plays outside on green grass"],
    ["two people ride bikes down a street", "people riding bicycles", "a couple rides bikes"],
    ["a man plays the guitar on a stage", "a musician is playing guitar", "man with guitar"],
    ["a cat sits", "a cat is sitting on a sofa"],
]
PREDICTIONS = [
    "a dog is running on the grass",
    "people people ride bikes",
    "a man plays a guitar",
    "a cat sits",
]
# `Cider().compute_score` of pycocoevalcap 1.2 for these.
PUBLISHED = [2.861967032514798, 1.3370708431717215, 1.978858881467733, 4.461773432082989]


def test_the_published_implementation_gives_the_same():
    assert cider(PREDICTIONS, REFERENCES) == pytest.approx(PUBLISHED, abs=1e-12)


def test_by_hand():
    """Two media with a reference of one word each, which no other has.

    Both words weigh log 2. "a a" has the word twice, but what is clipped gains nothing: the product
    is min(2w, w) * w, the norms 2w and w, so 1/2 of one of four lengths of n-grams; it has one pair
    of words, and the reference none.
    """
    wrong_length = math.exp(-1 / (2 * 6**2))
    assert cider(["a", "b"], [["a"], ["b"]]) == pytest.approx([2.5, 2.5])
    assert cider(["a a", "b"], [["a"], ["b"]]) == pytest.approx([10 / 4 / 2 * wrong_length, 2.5])


def test_the_same_caption_has_the_full_score_and_a_single_medium_none():
    long = [["one two three four five"], ["six seven eight nine ten"]]
    assert cider([captions[0] for captions in long], long) == pytest.approx([10.0, 10.0])
    assert cider(["one two"], [["one two"]]) == [0.0]
    assert cider(["", "one"], [["one two"], ["three"]]) == [0.0, 0.0]


# What Stanford's PTBTokenizer 3.4.1 gives, as pycocoevalcap runs it.
@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog's running on the grass.", "a dog 's running on the grass"),
        ("Two people don't ride, but they walk.", "two people do n't ride but they walk"),
        ('It\'s raining; someone says "hello"...', "it 's raining someone says hello"),
        ("A woman’s hands", "a woman 's hands"),
        ("He's gonna jump - then he'll swim", "he 's gon na jump then he 'll swim"),
        ("a black/white cat, on-stage", "a black/white cat on-stage"),
        ("costs $5.50 and 50% off!", "costs $ 5.50 and 50 % off"),
        ("cats & dogs cannot fly at 10:30", "cats & dogs can not fly at 10:30"),
        ("1,000 birds; the dogs' bowl", "1,000 birds the dogs bowl"),
        ("a man (in a hat) [sits]", "a man -lrb- in a hat -rrb- -lsb- sits -rsb-"),
        ("Mr. Smith on St. James St.", "mr. smith on st. james st."),
        ("7 a.m. in the U.S. on plan B.", "7 a.m. in the u.s. on plan b."),
        ("bus no. 5, he says no.", "bus no. 5 he says no"),
        ("it is 3:00PM, not 10:30", "it is 3:00 pm not 10:30"),
        ("drums + *loud* music w/ a dog", "drums + * loud * music w / a dog"),
        ("hello,world at @home a&b 20%of", "hello world at @home a & b 20 % of"),
        ("wow!! 5'6, .5 of the 1990's", "wow !! 5 6 .5 of the 1990 's"),
    ],
)
def test_words(caption, words):
    assert caption_words(caption) == words.split()

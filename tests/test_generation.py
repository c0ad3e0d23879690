"""The options and the text stream of an answer."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.errors import OptionError
from video_llama.generation import AnswerText, GenerationOptions, IdsToText


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.2),
        ("top_k", -1),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", 2**64),
        ("stop", ("",)),
        ("stop", (3,)),
    ],
)
def test_a_bad_option_is_named(field, value):
    with pytest.raises(OptionError, match=field):
        GenerationOptions(**{field: value})


def test_next_to_no_temperature_is_none():
    assert GenerationOptions(temperature=1e-39).temperature == 0.0
    assert GenerationOptions(temperature=1e-3).temperature == 1e-3


def test_an_unknown_option_is_named():
    with pytest.raises(OptionError, match=r"max_tokens.*max_new_tokens"):
        GenerationOptions.of({"max_tokens": 3})


@pytest.mark.parametrize(
    ("field", "value"),
    [("stop", None), ("stop", 5), ("stop", [""]), ("temperature", 10**400), ("top_p", "1")],
)
def test_values_of_another_kind_are_refused_by_name(field, value):
    with pytest.raises(OptionError, match=f"{field} must be"):
        GenerationOptions(**{field: value})


def test_numbers_of_numpy_are_numbers():
    options = GenerationOptions(
        max_new_tokens=np.int64(4), temperature=np.float32(0.5), seed=np.uint64(3)
    )
    assert options == GenerationOptions(max_new_tokens=4, temperature=0.5, seed=3)
    with pytest.raises(OptionError, match="seed"):
        GenerationOptions(seed=np.int64(-1))


def test_one_stop_text_may_be_given_bare():
    assert GenerationOptions(stop="END").stop == ("END",)


# Text


def decode_bytes(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@given(st.text())
def test_bytes_become_the_text_again(text):
    stream = IdsToText(decode_bytes)
    pieces = [stream.add(byte) for byte in text.encode()] + [stream.finish()]
    assert "".join(pieces) == text


@given(st.lists(st.integers(0, 255)))
def test_broken_bytes_are_not_lost(ids):
    """Only the number of signs for one broken stretch may differ from decoding all at once."""
    stream = IdsToText(decode_bytes)
    text = "".join([stream.add(i) for i in ids] + [stream.finish()])
    assert text.replace("\ufffd", "") == decode_bytes(ids).replace("\ufffd", "")


def test_no_half_character_is_given():
    stream = IdsToText(decode_bytes)
    pieces = [stream.add(byte) for byte in "a狗b".encode()]
    assert pieces == ["a", "", "", "狗", "b"]


def whole(text: str, stops: list[str], labels: list[str]) -> str:
    """The clean-up, said for a whole text."""
    text = text.lstrip()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        end = min(ends)
        stop = next(s for s in stops if text[:end].endswith(s))
        text = text[: end - len(stop)]
    while label := next((label for label in labels if text.startswith(label)), None):
        text = text.removeprefix(label).lstrip()
    return text.strip()


SMALL = st.text(alphabet="ab#: \n", max_size=30)


@given(SMALL, st.lists(st.text(alphabet="ab#", min_size=1, max_size=3), max_size=2), st.data())
def test_streamed_text_is_the_whole_text(text, stops, data):
    labels = ["ba:"] if "b" not in stops and "ba" not in stops else []
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5).map(sorted))
    bounds = [0, *cuts, len(text)]
    answer = AnswerText(stops, labels)
    pieces = [answer.add(text[a:b]) for a, b in itertools.pairwise(bounds)]
    streamed = "".join([*pieces, answer.finish()])
    at_once = AnswerText(stops, labels)
    assert streamed == at_once.add(text) + at_once.finish()
    if not any("a" in stop for stop in stops):
        assert streamed == whole(text, stops, labels)


def test_a_stop_text_over_several_tokens_never_shows():
    answer = AnswerText(["###"], ["Assistant:"])
    pieces = [answer.add(piece) for piece in [" Assis", "tant: One", " dog.", " #", "#", "# Human"]]
    assert pieces == ["", "One", " dog.", "", "", ""]
    assert answer.stopped


def test_what_only_looked_like_a_stop_text_is_given():
    answer = AnswerText(["###"])
    assert [answer.add("no. ##"), answer.add("1 of all")] == ["no.", " ##1 of all"]
    assert answer.finish() == ""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.errors import OptionError
from video_llama.media.sampling import (
    clip_ranges,
    head_tail_indices,
    timestamp_text,
    uniform_indices,
)


@given(length=st.integers(1, 5000), n=st.integers(1, 200))
def test_uniform_indices_are_distinct_ascending_and_inside(length: int, n: int) -> None:
    indices = uniform_indices(length, n)
    assert len(indices) == min(length, n)
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    assert indices[-1] < length


def test_uniform_indices_take_every_frame_of_a_short_video() -> None:
    assert uniform_indices(3, 8) == [0, 1, 2]
    assert uniform_indices(1, 8) == [0]
    assert uniform_indices(0, 8) == []


def test_uniform_indices_never_run_over() -> None:
    # The plain rule gives 8 values for (17, 7), the last of them 17: one frame too many.
    assert uniform_indices(17, 7) == [0, 2, 4, 7, 9, 12, 14]


@given(length=st.integers(1, 500), n=st.integers(1, 64), seed=st.integers(0, 1000))
def test_head_tail_takes_half_from_each_half(length: int, n: int, seed: int) -> None:
    indices = head_tail_indices(length, n, random.Random(seed))
    assert indices == sorted(set(indices))
    assert all(0 <= index < length for index in indices)
    assert len(indices) == min(length, n) // 2 * 2
    assert sum(index < length // 2 for index in indices) == len(indices) // 2
    assert indices == head_tail_indices(length, n, random.Random(seed))


def test_timestamp_text_counts_and_rounds() -> None:
    expected = "The video contains 3 frames sampled at 0.0, 1.2, 10.0 seconds. "
    assert timestamp_text([0, 1.2345, 9.99]) == expected


@given(
    samples=st.integers(0, 500_000),
    rate=st.sampled_from([8000, 16_000, 44_100]),
    clips=st.integers(1, 20),
    seconds=st.floats(0.1, 5),
)
def test_clip_ranges_lie_inside_and_move_forward(
    samples: int, rate: int, clips: int, seconds: float
) -> None:
    ranges = clip_ranges(samples, rate, clips, seconds)
    assert len(ranges) == clips
    assert ranges[0][0] == 0
    assert ranges == sorted(ranges)
    assert all(0 <= start <= end <= samples for start, end in ranges)
    if samples > rate * seconds + 1:
        assert all(abs(end - start - rate * seconds) <= 1 for start, end in ranges)
    else:
        assert all(start <= 1 for start, _ in ranges)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 1"):
        uniform_indices(10, 0)
    with pytest.raises(OptionError, match="at least 1"):
        head_tail_indices(10, -1, random.Random(0))
    for arguments in ((100, 0), (100, 16_000, 0), (100, 16_000, 8, 0.0)):
        with pytest.raises(OptionError, match="positive"):
            clip_ranges(*arguments)

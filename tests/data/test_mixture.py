"""Order, shares and partition of the samples of a run."""

import itertools
import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.data.mixture import MAX_BLOCK, Draw, Mixture, ShardedBatches, whole_shares
from video_llama.errors import DataError, OptionError

mixtures = st.builds(
    lambda parts, seed: Mixture([n for n, _ in parts], [w for _, w in parts], seed),
    st.lists(
        st.tuples(
            st.integers(1, 40),
            st.one_of(st.integers(1, 20), st.sampled_from([0.1, 0.25, 1.5, 100.0])),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**64 - 1),
)


def take(mixture: Mixture, count: int, start: int = 0) -> list[Draw]:
    return list(itertools.islice(mixture.draws(start), count))


@settings(deadline=None, max_examples=60)
@given(mixtures, st.integers(1, 200))
def test_every_row_once_per_epoch(mixture, count):
    rows: dict[tuple[int, int], list[int]] = {}
    for draw in take(mixture, count):
        rows.setdefault((draw.dataset, draw.epoch), []).append(draw.row)
    for (dataset, epoch), drawn in rows.items():
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(range(mixture.lengths[dataset]))
        if (dataset, epoch + 1) in rows:
            assert len(drawn) == mixture.lengths[dataset]


@settings(deadline=None, max_examples=60)
@given(mixtures, st.integers(0, 300), st.integers(1, 60))
def test_beginning_anywhere_is_skipping(mixture, start, count):
    fresh = Mixture(mixture.lengths, mixture.shares, mixture.seed)
    assert take(fresh, count, start) == take(mixture, start + count)[start:]


@settings(deadline=None, max_examples=40)
@given(mixtures, st.lists(st.integers(0, 10**12), min_size=1, max_size=8))
def test_a_position_alone_decides(mixture, positions):
    forward = [mixture.draw(position) for position in positions]
    fresh = Mixture(mixture.lengths, mixture.shares, mixture.seed)
    backward = [fresh.draw(position) for position in reversed(positions)]
    assert forward == backward[::-1]
    assert [draw.position for draw in forward] == positions


@settings(deadline=None, max_examples=60)
@given(mixtures, st.integers(0, 20))
def test_each_block_meets_the_shares(mixture, block):
    size = sum(mixture.shares)
    drawn = Counter(draw.dataset for draw in take(mixture, size, block * size))
    assert [drawn[number] for number in range(len(mixture.shares))] == list(mixture.shares)


def test_the_published_shares():
    mixture = Mixture([2_500_000, 595_000], [100, 24], seed=0)
    assert mixture.shares == (25, 6)
    drawn = Counter(draw.dataset for draw in take(mixture, 124 * 40))
    assert drawn == {0: 4000, 1: 960}


def test_the_order_comes_from_the_seed():
    def order(seed, lengths=(50, 20)):
        return [(d.dataset, d.row) for d in take(Mixture(lengths, [2, 1], seed), 40)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    # Epochs and data sets of one length have orders of their own.
    drawn = take(Mixture([30, 30], [1, 1], 5), 240)
    orders = {
        tuple(d.row for d in drawn if (d.dataset, d.epoch) == which)
        for which in itertools.product((0, 1), (0, 1, 2))
    }
    assert len(orders) == 6


def test_the_order_is_the_recorded_one():
    """A run that goes on with another version of the software or of numpy finds its samples."""
    drawn = [(d.dataset, d.row) for d in take(Mixture([10, 7], [100, 24], 3), 12)]
    assert drawn == [
        (1, 1), (0, 3), (0, 0), (0, 4), (1, 3), (0, 8),
        (0, 2), (0, 7), (0, 9), (0, 6), (0, 1), (0, 5),
    ]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    mixtures,
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 6),
)
def test_ranks_share_out_a_step(mixture, batch_size, world_size, accumulation, start, steps):
    ranks = [
        ShardedBatches(mixture, batch_size, rank, world_size, accumulation, start, steps=steps)
        for rank in range(world_size)
    ]
    batches = [list(rank) for rank in ranks]
    size = batch_size * world_size * accumulation
    assert {rank.global_batch for rank in ranks} == {size}
    for rank, own in zip(ranks, batches, strict=True):
        assert len(own) == len(rank) == max(steps - start, 0) * accumulation
        assert all(len(batch) == batch_size for batch in own)
    positions = [draw.position for own in batches for batch in own for draw in batch]
    assert sorted(positions) == list(range(start * size, max(steps, start) * size))
    for step in range(max(steps - start, 0)):
        of_step = {
            draw.position
            for own in batches
            for batch in own[step * accumulation : (step + 1) * accumulation]
            for draw in batch
        }
        assert of_step == set(range((start + step) * size, (start + step + 1) * size))


def test_going_on_is_not_beginning_again():
    mixture = Mixture([17, 5], [3, 1], 8)
    whole = list(ShardedBatches(mixture, 2, 1, 2, 3, steps=10))
    rest = list(ShardedBatches(pickle.loads(pickle.dumps(mixture)), 2, 1, 2, 3, 4, steps=10))
    assert rest == whole[12:]


def test_a_copy_draws_the_same():
    mixture = Mixture([17, 5, 9], [1 / 3, 2 / 3, 1e-9], 8)
    first = take(mixture, 40)
    copy = pickle.loads(pickle.dumps(mixture))
    assert copy.shares == mixture.shares
    assert take(copy, 40) == first
    assert len(pickle.dumps(Mixture([10**6], [1], 0))) < 1000


def test_the_state_knows_other_data():
    mixture = Mixture([17, 5], [3, 1], 8)
    state = mixture.state_dict(70)
    assert Mixture([17, 5], [6.0, 2.0], 8).position_of(state) == 70
    for lengths, weights, seed, words in (
        ([18, 5], [3, 1], 8, "numbers of rows"),
        ([17, 5], [3, 2], 8, "weights"),
        ([17, 5], [3, 1], 9, "seed"),
    ):
        with pytest.raises(DataError, match=words):
            Mixture(lengths, weights, seed).position_of(state)


def test_whole_shares():
    assert whole_shares([0.1, 0.2]) == (1, 2)
    assert whole_shares([7]) == (1,)
    assert whole_shares([1e-3, 1.0]) == (1, 1000)
    uneven = whole_shares([1 / 3, 2 / 3, 1e-9])
    assert sum(uneven) <= MAX_BLOCK + 3
    assert uneven[2] == 1
    assert uneven[1] / uneven[0] == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("weights", [[0], [-1], [float("nan")], [float("inf")]])
def test_weights_that_cannot_be(weights):
    with pytest.raises(OptionError, match="weight must be a positive number"):
        Mixture([1], weights, 0)


def test_settings_that_cannot_be():
    with pytest.raises(DataError, match="data set 1 has no rows"):
        Mixture([1, 0], [1, 1], 0)
    with pytest.raises(OptionError, match="1 data sets, 2 weights"):
        Mixture([1], [1, 1], 0)
    with pytest.raises(OptionError, match="seed"):
        Mixture([1], [1], -1)
    mixture = Mixture([1], [1], 0)
    with pytest.raises(OptionError, match="rank 2 of 2"):
        ShardedBatches(mixture, 1, 2, 2, steps=1)
    with pytest.raises(OptionError, match="batch_size must be at least 1"):
        ShardedBatches(mixture, 0, steps=1)

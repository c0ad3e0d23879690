"""Rows of keys and values, and what is kept of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_llama.engine.cache import CacheShape, RowCache
from video_llama.engine.prefix import PrefixStore, shared_length

SHAPE = CacheShape(layers=2, heads=3, width=4, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def cache() -> RowCache:
    """Three rows of eight tokens, no two values alike."""
    cache = RowCache(SHAPE)
    cache.resize(3, 8, 0)
    for number, layer in enumerate(cache.layers):
        layer.copy_(torch.arange(layer.numel()).view_as(layer) + 1000 * number)
    return cache


def test_a_token_goes_to_each_row_at_its_own_place(cache):
    before = [layer.clone() for layer in cache.layers]
    new = -torch.arange(1.0, 2 * 2 * 3 * 4 + 1).view(2, 2, 3, 4)  # (rows, 2, H, W)
    keys, values = cache.put_tokens(1, cache.places(torch.tensor([5, 2])), new, 6)
    assert keys.shape == values.shape == (2, 3, 6, 4)
    expected = before[1].clone()
    for row, place in ((0, 5), (1, 2)):
        expected[:, row, :, place] = new[row]
    assert torch.equal(cache.layers[1], expected)
    assert torch.equal(cache.layers[0], before[0])
    assert torch.equal(keys, expected[0, :2, :, :6])
    assert torch.equal(values, expected[1, :2, :, :6])


def test_a_chunk_goes_into_one_row(cache):
    new = -torch.arange(1.0, 2 * 3 * 2 * 4 + 1).view(2, 3, 2, 4)  # (2, H, Q, W)
    expected = cache.layers[0].clone()
    expected[:, 1, :, 3:5] = new
    keys, values = cache.put_chunk(0, 1, 3, new)
    assert torch.equal(cache.layers[0], expected)
    assert torch.equal(keys, expected[0, 1:2, :, :5])
    assert torch.equal(values, expected[1, 1:2, :, :5])


def test_rows_are_moved_read_and_written(cache):
    snapshot = cache.read(0, 5)
    assert snapshot.shape == (2, 2, 3, 5, 4)
    assert torch.equal(snapshot[1], cache.layers[1][:, 0, :, :5])
    cache.move(0, 2, 5)
    assert torch.equal(cache.read(2, 5), snapshot)
    cache.write(1, snapshot, 3)
    assert torch.equal(cache.read(1, 3), snapshot[..., :3, :])
    cache.layers[0].zero_()
    assert snapshot.abs().sum() > 0  # a copy, not a window


@pytest.mark.parametrize(("rows", "capacity"), [(2, 16), (5, 6), (2, 6)])
def test_rows_keep_what_they_hold_when_their_form_changes(cache, rows, capacity):
    before = [cache.read(row, 6) for row in range(2)]
    cache.resize(rows, capacity, 2)
    assert all(torch.equal(cache.read(row, 6), kept) for row, kept in enumerate(before))
    assert cache.layers[0].shape == (2, rows, 3, capacity, 4)
    assert cache.layers[0].isfinite().all()


small = st.lists(st.integers(0, 2), max_size=200)


@given(small, small, small)
def test_shared_length_is_that_of_the_common_beginning(common, one, other):
    one, other = common + one, common + other
    length = shared_length(one, other)
    assert one[:length] == other[:length]
    assert length in (len(one), len(other)) or one[length] != other[length]


def snapshot(length: int) -> torch.Tensor:
    return torch.zeros(1, 2, 1, length, 1)


def test_the_longest_common_beginning_is_found():
    store = PrefixStore(100)
    for keys in ("abcd", "abxy", "abcxyz"):
        assert store.wants(tuple(keys))
        store.put(tuple(keys), snapshot(len(keys)))
    kept, length = store.find(tuple("abcxyq"))
    assert kept is not None
    assert ("".join(kept.keys), length) == ("abcxyz", 5)
    assert store.find(tuple("q")) == (None, 0)


def test_what_is_continued_is_dropped_and_what_is_there_not_wanted():
    store = PrefixStore(100)
    store.put(tuple("ab"), snapshot(2))
    store.put(tuple("abc"), snapshot(3))
    assert (len(store), store.tokens) == (1, 3)
    assert not store.wants(tuple("ab"))
    assert not store.wants(tuple("abc"))
    assert not store.wants(())
    assert store.wants(tuple("abd"))


def test_what_was_not_used_for_longest_goes_first():
    store = PrefixStore(10)
    for keys in ("aaaa", "bbbb"):
        store.put(tuple(keys), snapshot(4))
    kept, _ = store.find(tuple("aaaa"))
    assert kept is not None
    store.used(kept)
    store.put(tuple("cccc"), snapshot(4))
    assert store.find(tuple("bbbb"))[1] == 0
    assert store.find(tuple("aaaa"))[1] == 4
    assert store.tokens == 8
    assert not store.wants(tuple(range(11)))
    assert not PrefixStore(0).wants(tuple("a"))

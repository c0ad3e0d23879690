"""Keys and values of sequences that ran, kept for prompts that begin alike.

A second question begins with the whole conversation before it; another conversation over the same
clip begins with the clip. Sequences are known by their keys (see `Request.keys`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

BLOCK = 64  # keys compared at a time


@dataclass(frozen=True, eq=False)
class Kept:
    """A sequence that ran: its keys, and its keys and values (layers, 2, H, N, W)."""

    keys: tuple[Hashable, ...]
    snapshot: torch.Tensor


class PrefixStore:
    """Sequences, those used last first to stay, within a number of tokens."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self._kept: list[Kept] = []  # oldest use first

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, keys: Sequence[Hashable]) -> tuple[Kept | None, int]:
        """What begins like `keys` for longest, and for how many tokens."""
        best, length = None, 0
        for kept in reversed(self._kept):
            shared = shared_length(kept.keys, keys)
            if shared > length:
                best, length = kept, shared
        return best, length

    def used(self, kept: Kept) -> None:
        """Let it stay longer."""
        self._kept.remove(kept)
        self._kept.append(kept)

    def wants(self, keys: Sequence[Hashable]) -> bool:
        """Whether a sequence would be worth keeping: not longer than all, not there already."""
        if not 0 < len(keys) <= self.max_tokens:
            return False
        best, shared = self.find(keys)
        if best is not None and shared == len(keys):
            self.used(best)
            return False
        return True

    def put(self, keys: Sequence[Hashable], snapshot: torch.Tensor) -> None:
        """Keep a sequence that `wants` said yes to; those it continues are dropped."""
        new = Kept(tuple(keys), snapshot)
        self._kept = [one for one in self._kept if new.keys[: len(one.keys)] != one.keys]
        self._kept.append(new)
        self.tokens = sum(len(one.keys) for one in self._kept)
        while self.tokens > self.max_tokens:
            self.tokens -= len(self._kept.pop(0).keys)

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self.tokens = 0


def shared_length(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """How many values both begin with."""
    shorter = min(len(one), len(other))
    place = 0
    while place < shorter and one[place : place + BLOCK] == other[place : place + BLOCK]:
        place += BLOCK
    end = min(place + BLOCK, shorter)
    while place < end and one[place] == other[place]:
        place += 1
    return min(place, shorter)

"""Which sample is when: data sets mixed by weight, shuffled by a seed, shared out among ranks.

Everything here is arithmetic on the number of a sample in the run, its position, so a run can begin
anywhere without drawing what lies before, and its state is one number.

    position ── weights ──> data set, how many of it came before ── permutation ──> epoch, row
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.random import MT19937, RandomState, SeedSequence

from video_llama.errors import DataError, OptionError

MAX_BLOCK = 10_000  # samples after which the shares of the data sets are met exactly
# What a seed is used for, so that no two uses share their chance.
_BLOCKS, _ROWS = 0, 1


@dataclass(frozen=True)
class Draw:
    """One sample of the run.

    Attributes:
        position: its number in the run, from 0.
        dataset: number of its data set.
        row: number of its row in there.
        epoch: how often every row of this data set has been drawn before.
    """

    position: int
    dataset: int
    row: int
    epoch: int


class Mixture:
    """Data sets of given lengths, mixed by weight.

    Weights are brought to whole numbers: 100 : 24 to 25 : 6, and each block of 31 samples holds
    exactly 25 and 6 of them in an order of its own. Where that would make blocks of more than
    `MAX_BLOCK` samples, weights are rounded to that many parts, and none to nothing. Within a data
    set every row is drawn once before any is drawn again, each time in a new order.

    Args:
        lengths: rows of each data set.
        weights: its share of the samples.
        seed: decides all orders.

    Raises:
        OptionError: weights that are not positive, or not one for each data set.
        DataError: a data set without rows.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if len(lengths) != len(weights) or not lengths:
            raise OptionError(
                f"a mixture needs a weight for each data set: {len(lengths)} data sets, "
                f"{len(weights)} weights"
            )
        for number, length in enumerate(lengths):
            if length < 1:
                raise DataError(f"data set {number} has no rows; leave it out or give another file")
        if not 0 <= seed < 2**64:
            raise OptionError(f"the seed of a mixture is from 0 to 2**64 - 1, not {seed}")
        self.lengths = tuple(lengths)
        self.shares = whole_shares(weights)
        self.seed = seed
        self._block = NO_BLOCK
        self._rows: dict[int, tuple[int, np.ndarray]] = {}  # by data set: epoch, rows in order

    def draw(self, position: int) -> Draw:
        """The sample at a position."""
        size = sum(self.shares)
        number, place = divmod(position, size)
        if self._block.number != number:
            self._block = self._shuffled_block(number)
        dataset = int(self._block.datasets[place])
        before = number * self.shares[dataset] + int(self._block.ranks[place])
        epoch, place_in_epoch = divmod(before, self.lengths[dataset])
        return Draw(position, dataset, self._row(dataset, epoch, place_in_epoch), epoch)

    def draws(self, start: int = 0) -> Iterator[Draw]:
        """All samples from a position on, without end."""
        return map(self.draw, itertools.count(start))

    def state_dict(self, position: int) -> dict[str, object]:
        """What must be the same for a run to go on at `position` as if never interrupted."""
        return {
            "position": position,
            "seed": self.seed,
            "lengths": list(self.lengths),
            "shares": list(self.shares),
        }

    def position_of(self, state: dict[str, object]) -> int:
        """Where a run goes on.

        Raises:
            DataError: the state is of other data, whose samples would come in another order.
        """
        position = state.get("position")
        assert isinstance(position, int)
        names = {"seed": "seed", "lengths": "numbers of rows", "shares": "weights"}
        for name, value in self.state_dict(position).items():
            if state.get(name) != value:
                raise DataError(
                    f"the run to go on with had other {names[name]}: {state.get(name)}, now "
                    f"{value}; give the same data and seed, or begin anew"
                )
        return position

    def _shuffled_block(self, number: int) -> "Block":
        chance = _chance(self.seed, _BLOCKS, number)
        datasets = chance.permutation(np.repeat(np.arange(len(self.shares)), self.shares))
        ranks = np.empty_like(datasets)
        for dataset, share in enumerate(self.shares):
            ranks[datasets == dataset] = np.arange(share)
        return Block(number, datasets, ranks)

    def _row(self, dataset: int, epoch: int, place: int) -> int:
        kept = self._rows.get(dataset)
        if kept is None or kept[0] != epoch:
            chance = _chance(self.seed, _ROWS, dataset, epoch)
            kept = epoch, chance.permutation(self.lengths[dataset])
            self._rows[dataset] = kept
        return int(kept[1][place])

    def __getstate__(self) -> dict[str, object]:
        # Orders are made again where they are needed; a worker is not sent millions of numbers.
        return {**self.__dict__, "_block": NO_BLOCK, "_rows": {}}


@dataclass(frozen=True)
class Block:
    """A stretch of the run that meets the shares exactly.

    `datasets` (samples of a block) are data sets in their order; `ranks` of the same length tell
    how many samples of that data set the block holds before.
    """

    number: int
    datasets: np.ndarray
    ranks: np.ndarray


NO_BLOCK = Block(-1, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


class ShardedBatches:
    """The samples of one rank, as a `batch_sampler` of a DataLoader.

    Step s of the run takes positions [s * G, (s + 1) * G) with G = batch_size * world_size *
    accumulation. Micro-step a takes the next batch_size * world_size of them, rank r the r-th
    batch_size of these: which samples make up a step depends on G alone.

    Args:
        mixture: of the run.
        batch_size: samples of a micro-step on one rank.
        rank, world_size: of this process.
        accumulation: micro-steps of a step.
        start_step: where to begin: the number of steps that are done.
        steps: the number of steps of the whole run; what lies before `start_step` counts.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        start_step: int = 0,
        *,
        steps: int,
    ) -> None:
        least = {"batch_size": 1, "world_size": 1, "accumulation": 1, "start_step": 0, "steps": 0}
        values = (batch_size, world_size, accumulation, start_step, steps)
        for (name, low), value in zip(least.items(), values, strict=True):
            if value < low:
                raise OptionError(f"{name} must be at least {low}, not {value}")
        if not 0 <= rank < world_size:
            raise OptionError(f"rank {rank} of {world_size} does not exist; ranks count from 0")
        self.mixture = mixture
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.accumulation = accumulation
        self.start_step = start_step
        self.steps = steps

    @property
    def global_batch(self) -> int:
        """Samples of a step over all ranks."""
        return self.batch_size * self.world_size * self.accumulation

    def __len__(self) -> int:
        return max(self.steps - self.start_step, 0) * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        first = self.start_step * self.accumulation
        for micro_step in range(first, first + len(self)):
            start = (micro_step * self.world_size + self.rank) * self.batch_size
            yield [self.mixture.draw(start + place) for place in range(self.batch_size)]


def whole_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as whole numbers of samples in a block; exact where the block stays small enough.

    Raises:
        OptionError: a weight that is not positive, or too many weights.
    """
    for weight in weights:
        if not (weight > 0 and math.isfinite(weight)):
            raise OptionError(f"a weight must be a positive number, not {weight!r}")
    if len(weights) > MAX_BLOCK // 10:
        raise OptionError(f"{len(weights)} data sets are too many; join them to fewer")
    # The decimal that was written, not the binary fraction next to it: 0.1 is a tenth.
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    whole = [share // math.gcd(*whole) for share in whole]
    if sum(whole) <= MAX_BLOCK:
        return tuple(whole)
    total = sum(exact)
    return tuple(max(1, round(weight / total * MAX_BLOCK)) for weight in exact)


def _chance(seed: int, *use: int) -> RandomState:
    """A source of chance whose stream numpy promises never to change."""
    return RandomState(MT19937(SeedSequence((seed, *use))))

"""How well a model does on samples it does not learn from: loss and accuracy over tokens."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from video_llama.data.collator import Batch
from video_llama.data.dataset import Rejected, TrainingDataset
from video_llama.data.mixture import Draw
from video_llama.errors import TrainingError
from video_llama.training.atomic import write_file, writing
from video_llama.training.loading import batch_loader, worker_errors
from video_llama.training.memory import memory_told
from video_llama.training.parallel import Processes
from video_llama.training.quarantine import SHOWN, quarantine_line
from video_llama.training.step import TrainingStep


@dataclass(frozen=True)
class Measured:
    """Mean loss of a token, share of tokens that were likeliest and right, and of how many."""

    loss: float
    accuracy: float
    tokens: int
    samples: int
    rejected: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Validation:
    """The samples, and how they are shared out.

    Args:
        dataset: with evenly spaced frames.
        samples: rows of each data set, the first ones; None: all.
        batch: samples run at once.
        workers: processes that read.
        processes: that share the rows.
        quarantine: the file that names the bad samples of the last measurement.
    """

    def __init__(
        self,
        dataset: TrainingDataset,
        samples: int | None,
        batch: int,
        workers: int,
        processes: Processes,
        quarantine: Path,
    ) -> None:
        self.dataset = dataset
        self.batch = batch
        self.workers = workers
        self.processes = processes
        self.quarantine = quarantine
        places = [
            (number, row)
            for number, rows in enumerate(dataset.rows)
            for row in range(min(len(rows), samples or len(rows)))
        ]
        self.draws = [
            Draw(position, number, row, 0) for position, (number, row) in enumerate(places)
        ]

    def measure(
        self, step: TrainingStep, stop: Callable[[], bool] = lambda: False
    ) -> Measured | None:
        """Run everything once, without dropout; None where `stop` says so meanwhile.

        Where processes share layers they run forward together, so that none can stop alone: there
        it goes to its end.

        Raises:
            TrainingError: no sample can be used, so there is nothing to tell models apart by.
        """
        sums = torch.zeros(3, dtype=torch.float64)
        samples, rejected, stopped = 0, [], False
        training = [module for module in step.modules() if module.training]
        step.eval()
        try:
            with (
                self.processes.together(),
                memory_told("validation", "give a larger accumulation, so that fewer run at once"),
                torch.no_grad(),
                worker_errors(),
            ):
                for batch in self._batches():
                    stopped = not self.processes.shares_layers and stop()
                    if stopped:
                        break
                    score = step.score(batch.to(self.processes.device))
                    sums += torch.stack([value.double().cpu() for value in score])
                    samples += len(batch.keys)
                    rejected += batch.rejected
        finally:
            self.processes.share_again(step.model)
            for module in training:
                module.training = True
        loss, correct, tokens, good, left = self.processes.add(
            [*sums.tolist(), samples, float(stopped)]
        )
        if left:
            return None
        bad = sorted(self.processes.gather(rejected), key=lambda one: one.position)
        self._name(bad)
        if not tokens:
            reasons = "; ".join(f"{one.key}: {one.reason}" for one in bad[:SHOWN])
            raise TrainingError(
                f"no sample of validation.data can be used, of {len(bad):,}; put them right or "
                f"leave validation.data out. All are listed in {self.quarantine}: {reasons}"
            )
        return Measured(loss / tokens, correct / tokens, round(tokens), round(good), len(bad))

    def _name(self, bad: list[Rejected]) -> None:
        """The bad samples of this measurement, in the place of those of the one before."""
        with self.processes.together(), writing(str(self.quarantine)):
            if self.processes.is_first and (bad or self.quarantine.exists()):
                write_file(self.quarantine, b"".join(map(quarantine_line, bad)))

    def _batches(self) -> Iterable[Batch]:
        """Batches of this process; every process has equally many, the last ones may be empty."""
        size, world = self.batch, self.processes.world_size
        count = -(-len(self.draws) // (size * world))
        starts = [(number * world + self.processes.rank) * size for number in range(count)]
        batches = [self.draws[start : start + size] for start in starts]
        return batch_loader(self.dataset, batches, self.workers, self.processes.device)

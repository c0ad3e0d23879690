"""Bad samples: named in a file, never replaced, and too many of them stop the run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_llama.data.dataset import Rejected
from video_llama.errors import TrainingError
from video_llama.training.atomic import write_file, writing
from video_llama.training.recipe import BadSampleSettings

SHOWN = 3


class Quarantine:
    """The bad samples of a run, one line of JSON each.

    Args:
        path: of the file.
        settings: how many may be bad.
        seen: samples before this process, when a run goes on; lines of later ones are forgotten,
            because they will be read again.
        write: False where another process writes the file.
    """

    def __init__(
        self, path: Path, settings: BadSampleSettings, seen: int = 0, write: bool = True
    ) -> None:
        self.path = path
        self.settings = settings
        self.seen = seen
        self.write = write
        kept = [line for line in read_lines(path) if line["position"] < seen]
        self.count = len(kept)
        self.latest = [f"{line['key']}: {line['reason']}" for line in kept[-SHOWN:]]
        if write and path.exists():
            write_file(path, b"".join(_line(line) for line in kept))

    def add(self, samples: int, rejected: Sequence[Rejected]) -> None:
        """Count the samples of a step, those among them that are bad included.

        Raises:
            TrainingError: too many are bad by now.
        """
        self.seen += samples
        self.count += len(rejected)
        self.latest = [*self.latest, *(f"{one.key}: {one.reason}" for one in rejected)][-SHOWN:]
        if self.write and rejected:
            with writing(self.path.name), self.path.open("ab") as file:
                for one in sorted(rejected, key=lambda one: one.position):
                    file.write(quarantine_line(one))
        allowed = max(self.settings.min_count, self.settings.max_share * self.seen)
        if self.count > allowed:
            raise TrainingError(
                f"{self.count:,} of {self.seen:,} samples are bad, more than bad_samples allows; "
                f"all are listed in {self.path}. The latest: {'; '.join(self.latest)}"
            )

    def require_some(self) -> None:
        """Raise TrainingError where every sample was bad: nothing was learnt."""
        if self.seen and self.count >= self.seen:
            raise TrainingError(
                f"all {self.seen:,} samples are bad, so nothing was learnt and no model is "
                f"written; they are listed in {self.path}. The latest: {'; '.join(self.latest)}. "
                "Put them right, and train with another output: this run has gone through them"
            )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines; a last one that was cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # behind the last line break: nothing, or a stump
    return [json.loads(line) for line in lines]


def quarantine_line(bad: Rejected) -> bytes:
    """What a file says of a bad sample."""
    return _line({"position": bad.position, "key": bad.key, "reason": bad.reason})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"

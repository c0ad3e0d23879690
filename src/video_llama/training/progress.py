"""How far a run is, for people: a bar where someone watches, plain lines elsewhere."""

import sys
import time
from collections import deque
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LATELY = 50  # steps whose seconds are averaged


class TrainingProgress:
    """Tells how it goes on stderr.

    Args:
        steps: of the whole run.
        start: steps that are done.
        batch: samples of a step.
        every: steps between two plain lines.
        out: where to; None: nowhere, for all processes but the first.
    """

    def __init__(
        self, steps: int, start: int, batch: int, every: int, out: TextIO | None = sys.stderr
    ) -> None:
        self.steps = steps
        self.batch = batch
        self.every = every
        self._out = out
        self._seconds: deque[float] = deque(maxlen=LATELY)
        self._updates = 0
        self._last = time.perf_counter()
        self._bar: Progress | None = None
        if out is not None and out.isatty():
            self._bar = Progress(
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(file=out),
            )
            self._task = self._bar.add_task("", total=steps, completed=start, figures="")
            self._bar.start()

    def update(self, step: int, loss: float, rate: float) -> float:
        """A step is done; returns samples per second, lately."""
        now = time.perf_counter()
        took, self._last = now - self._last, now
        self._updates += 1
        if self._updates == 2:
            self._seconds.clear()  # the first step waits for readers to start
        self._seconds.append(took)
        seconds = sum(self._seconds) / len(self._seconds)
        speed = self.batch / max(seconds, 1e-9)
        left = spell_seconds((self.steps - step) * seconds)
        figures = f"loss {loss:.4f}  rate {rate:.2e}  {speed:.3g} samples/s  {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures)
        elif self._out is not None and (step % self.every == 0 or step == self.steps):
            self._print(f"step {step}/{self.steps}  {figures}")
        return speed

    def pause(self) -> None:
        """What was done since the last call was no step, and does not count for the speed."""
        self._last = time.perf_counter()

    def tell(self, message: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        elif self._out is not None:
            self._print(message)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.stop()

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def spell_seconds(seconds: float) -> str:
    """ "2 h 05 min", "3 min 20 s", "12 s"."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

"""Figures of a run: lines of metrics.jsonl, and TensorBoard where it is installed.

    {"step": 20, "loss": 2.31, "rate": 4e-5, "gradient_norm": 0.8, "tokens": 9120, ...}
    {"step": 500, "validation": {"loss": 2.2, "accuracy": 0.51, ...}}

"loss" is the mean over the tokens since the line before.
"""

import json
from pathlib import Path
from typing import Any

from video_llama.training.atomic import write_file, writing
from video_llama.training.quarantine import read_lines

METRICS = "metrics.jsonl"


class Metrics:
    """Writes figures; in the first process only.

    Args:
        folder: of the run.
        step: how many steps are done; lines of later ones are forgotten, since they come again.
        validated: the validation after this step is done; else its line is forgotten too.
        tensorboard: write for it too.
    """

    def __init__(
        self, folder: Path, step: int, *, validated: bool = True, tensorboard: bool
    ) -> None:
        self.path = folder / METRICS
        self.warning = ""
        if self.path.exists():
            kept = [
                line
                for line in read_lines(self.path)
                if line["step"] < step
                or (line["step"] == step and (validated or "validation" not in line))
            ]
            write_file(self.path, b"".join(_line(line) for line in kept))
        self._board = self._open_board(folder / "tensorboard", step) if tensorboard else None

    def add(self, step: int, figures: dict[str, Any]) -> None:
        """One line.

        Raises:
            TrainingError: it could not be written.
        """
        with writing(self.path.name), self.path.open("ab") as file:
            file.write(_line({"step": step, **figures}))
        if self._board is not None:
            for name, value in _scalars(figures):
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def close(self) -> None:
        """Finish what is being written."""
        if self._board is not None:
            self._board.close()

    def _open_board(self, folder: Path, step: int) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.warning = (
                "TensorBoard is not installed, figures are in metrics.jsonl only; "
                "pip install 'video-llama[train]', or give logging.tensorboard=false"
            )
            return None
        return SummaryWriter(str(folder), purge_step=step + 1)


def _scalars(figures: dict[str, Any], where: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in figures.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{name}/")
        elif isinstance(value, (int, float)):
            found.append((f"{where}{name}", float(value)))
    return found


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"

"""Small material for training runs: pictures with captions, a recipe for them, processes."""

import faulthandler
import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from video_llama.checkpoints.load import load_model, load_processor
from video_llama.training.overrides import build
from video_llama.training.recipe import Recipe

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}
MODULES = ["vision_branch.video_", "vision_branch.frame_position_embedding.", "vision_branch.proj"]


def write_pictures(folder: Path, count: int, first: int = 0) -> Path:
    """`count` pictures of one colour each and what colour it is, as lines of JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(first, first + count):
        colour = list(COLOURS)[number % 3]
        chance = np.random.default_rng(number)
        pixels = np.clip(np.array(COLOURS[colour]) + chance.integers(-30, 30, (20, 24, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        question = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": "?"}]
        lines.append(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": colour * (1 + number % 2)},
                ]
            }
        )
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session", autouse=True)
def _unsearched() -> None:
    """What the libraries hold is not searched for garbage again and again, in forks neither."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Twelve pictures to learn from."""
    return write_pictures(tmp_path_factory.mktemp("pictures"), 12)


@pytest.fixture(scope="session")
def other_pictures(tmp_path_factory) -> Path:
    """Five pictures to be measured on."""
    return write_pictures(tmp_path_factory.mktemp("others"), 5, first=100)


@pytest.fixture(scope="session")
def quiet_model_dir(tiny_model_dir, tmp_path_factory) -> Path:
    """The tiny model without dropout, so that its loss says everything."""
    target = tmp_path_factory.mktemp("models") / "quiet"
    model = load_model(tiny_model_dir, device="cpu")
    for config in (model.config.video_qformer_config, model.config.audio_qformer_config):
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(target)
    load_processor(tiny_model_dir).save_pretrained(target)
    return target


@pytest.fixture
def recipe(recipe_in, tmp_path) -> Callable[..., Recipe]:
    """`recipe(batch=..., **{"schedule.epochs": 2, ...})`: a run of four steps."""
    return recipe_in(tmp_path)


@pytest.fixture(scope="session")
def recipe_in(tiny_model_dir, pictures) -> Callable[[Path], Callable[..., Recipe]]:
    """`recipe_in(folder)` is `recipe` with its output in a folder."""
    return lambda folder: _recipe_maker(tiny_model_dir, pictures, folder)


def _recipe_maker(tiny_model_dir: Path, pictures: Path, folder: Path) -> Callable[..., Recipe]:
    def make(**changes: Any) -> Recipe:
        mapping: dict[str, Any] = {
            "name": "tiny",
            "branch": "vision",
            "modules": MODULES,
            "model": {"path": str(tiny_model_dir)},
            "data": [{"path": str(pictures)}],
            "schedule": {
                "peak": 3e-3,
                "floor": 1e-3,
                "start": 1e-3,
                "warmup_steps": 2,
                "steps_per_epoch": 4,
                "epochs": 1,
            },
            "batch": 4,
            "device": "cpu",
            "workers": 0,
            "logging": {"every": 1, "tensorboard": False},
            "checkpoint": {"every": 2},
            "export": {"kind": "none"},
            "output": str(folder / "run"),
        }
        for name, value in changes.items():
            *sections, last = name.split(".")
            place = mapping
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        return build(Recipe, mapping)

    return make


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def read_lines() -> Callable[[Path], list[dict[str, Any]]]:
    return lines


def losses(folder: Path | str) -> list[float]:
    return [one["loss"] for one in lines(Path(folder) / "metrics.jsonl") if "loss" in one]


@pytest.fixture(scope="session")
def read_losses() -> Callable[[Path | str], list[float]]:
    """The losses of a run, one a step."""
    return losses


class Started:
    """A process forked from this one: nothing is imported again."""

    def __init__(self, function: Callable[[], Any], environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("fork")
        self._receive, send = context.Pipe(duplex=False)
        self._process = context.Process(target=self._run, args=(function, environment, send))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        send.close()

    @staticmethod
    def _run(function: Callable[[], Any], environment: dict[str, str], send: Any) -> None:
        os.environ.update(environment)
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)
        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            send.send(("gave", function()))
        except BaseException as error:  # noqa: BLE001 (handed to the test)
            send.send(("raised", f"{type(error).__name__}: {error}"))

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def end(self, timeout: float = 60) -> tuple[str, Any]:
        """What it gave or raised; ("died", exit code) without either."""
        self._process.join(timeout)
        if self._process.is_alive():
            os.kill(self.pid, signal.SIGUSR1)  # where it hangs goes to stderr
            time.sleep(0.2)
            self._process.kill()
            return "hung", None
        try:
            return self._receive.recv() if self._receive.poll() else ("died", self.code)
        except EOFError:
            return "died", self.code

    @property
    def code(self) -> int | None:
        return self._process.exitcode


@pytest.fixture
def start() -> Any:
    """`start(function, **environment)`: run it in a process of its own."""
    started: list[Started] = []

    def begin(function: Callable[[], Any], **environment: str) -> Started:
        started.append(Started(function, environment))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


@pytest.fixture
def ranks(start) -> Callable[[Callable[[], Any], int], list[Started]]:
    """`ranks(function, 2)`: so many processes that find one another, as torchrun starts them."""

    def begin(function: Callable[[], Any], count: int) -> list[Started]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        return [
            start(
                function,
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(count),
                LOCAL_WORLD_SIZE=str(count),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                OMP_NUM_THREADS="1",
            )
            for rank in range(count)
        ]

    return begin

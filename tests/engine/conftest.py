"""Small language models of several kinds, and a way to ask an engine."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from video_llama.engine.engine import Engine
from video_llama.engine.handle import Handle
from video_llama.engine.request import Finished, Piece, Request
from video_llama.generation import GenerationOptions

CONTEXT = 160
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.4,
}


def letters(ids: list[int]) -> str:
    """One sign for each id."""
    return "".join(chr(48 + token) for token in ids)


@pytest.fixture(scope="session")
def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.fixture(scope="session")
def grouped() -> PreTrainedModel:
    """Queries share keys and values, and projections have biases."""
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="session")
def windowed() -> PreTrainedModel:
    """Each token looks at the ten before it."""
    torch.manual_seed(2)
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=10)
    return MistralForCausalLM(config).eval()


def embed(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    return model.get_input_embeddings()(torch.tensor(list(ids))).detach()


def make_request(
    model: PreTrainedModel,
    ids: Sequence[int],
    *,
    stop_ids: Sequence[int] = (),
    logprobs: int | None = None,
    deadline: float | None = None,
    embeddings: Any = None,
    **options: Any,
) -> Request:
    return Request(
        id="test",
        keys=tuple(ids),
        embeddings=embed(model, ids) if embeddings is None else embeddings,
        options=GenerationOptions(**{"max_new_tokens": 20, **options}),
        stop_ids=frozenset(stop_ids),
        logprobs=logprobs,
        deadline=deadline,
    )


def read(handle: Handle) -> tuple[list[int], str, Finished]:
    """Ids, text and end of an answer."""
    ids: list[int] = []
    text = ""
    for event in handle:
        if isinstance(event, Piece):
            ids += event.ids
            text += event.text
        else:
            return ids, text, event
    raise AssertionError("no end")


def greedy(model: PreTrainedModel, ids: Sequence[int], count: int, **options: Any) -> list[int]:
    """What `generate` says to one prompt alone."""
    prompt = torch.tensor([list(ids)])
    out = model.generate(
        inputs_embeds=embed(model, ids)[None],
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    return out[0].tolist()


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    """`make_engine(model, **settings)`; engines are shut down after the test."""
    made: list[Engine] = []

    def make(model: PreTrainedModel, **settings: Any) -> Engine:
        made.append(Engine(model, settings.pop("decode", letters), **settings))
        return made[-1]

    yield make
    for engine in made:
        assert engine.shutdown(drain=False, timeout=20)


class Gate:
    """Lets a runner's steps through one by one."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Semaphore(0)
        self.batches: list[int] = []
        real = engine._runner.decode

        def held(ids, lengths):
            if not self._open.acquire(timeout=60):
                raise TimeoutError("the test never let this step through")
            self.batches.append(len(ids))
            return real(ids, lengths)

        monkeypatch.setattr(engine._runner, "decode", held)

    def let(self, steps: int) -> None:
        self._open.release(steps)

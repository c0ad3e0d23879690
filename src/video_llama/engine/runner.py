"""One pass of a language model over rows of the cache, for any model of transformers.

Legend: B rows that run, Q tokens of a chunk, T tokens that are looked at, D width of the model,
H key-value heads, W width of a head, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from video_llama.engine.cache import CacheShape, RowCache
from video_llama.errors import OptionError


class TransformersRunner:
    """Runs a model's own forward; its cache writes into the rows.

    Attributes:
        cache: the rows.
        embeddings: the model's table.
    """

    def __init__(self, model: PreTrainedModel, cache: RowCache) -> None:
        self.model = model
        self.cache = cache
        self.embeddings: nn.Module = model.get_input_embeddings()
        self._place = Place(cache)
        layers: list[Any] = [RowLayer(number, self._place) for number in range(cache.shape.layers)]
        self._past = Cache(layers=layers)
        self._windows = layer_windows(model)
        self._past_name = past_name(model)

    def prefill(self, row: int, start: int, embeddings: torch.Tensor) -> torch.Tensor:
        """Run a chunk (Q, D) of a row that holds `start` tokens; logits (1, V) of the last one."""
        count = len(embeddings)
        positions = torch.arange(start, start + count, device=embeddings.device)
        self._place.row, self._place.start = row, start
        return self._forward(embeddings[None], positions[None], start + count)

    def decode(self, ids: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
        """Run an id in each of the first B rows, which hold `lengths` tokens; logits (B, V)."""
        device = self.cache.shape.device
        ids_and_positions = torch.tensor([ids, lengths], device=device)
        positions = ids_and_positions[1]
        self._place.row, self._place.places = None, self.cache.places(positions)
        self._place.length = max(lengths) + 1
        embeddings = self.embeddings(ids_and_positions[0][:, None])
        return self._forward(embeddings, positions[:, None], self._place.length)

    def _forward(
        self, embeddings: torch.Tensor, positions: torch.Tensor, length: int
    ) -> torch.Tensor:
        """Embeddings (B, Q, D) at positions (B, Q) -> logits (B, V) of the last ones."""
        masks = {
            kind: attention_mask(positions, length, window, embeddings.dtype)
            for kind, window in self._windows.items()
        }
        # Models with layers of several kinds take their masks by kind, others take the mask.
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
        output = self.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self._past_name: self._past},
        )
        return output.logits[:, -1]


@dataclass
class Place:
    """Where the keys and values of a pass go: a chunk of one row, or a token of each row."""

    cache: RowCache
    row: int | None = None
    start: int = 0
    places: torch.Tensor | None = None
    length: int = 0


class RowLayer(CacheLayerMixin):
    """A layer of transformers' cache that lives in the rows."""

    is_sliding = False

    def __init__(self, number: int, place: Place) -> None:
        super().__init__()
        self.number = number
        self.place = place
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the rows are there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New keys and values (B, H, Q, W) -> all of them (B, H, T, W)."""
        place = self.place
        both = torch.stack([key_states, value_states], dim=1)  # (B, 2, H, Q, W)
        if place.row is not None:
            return place.cache.put_chunk(self.number, place.row, place.start, both[0])
        assert place.places is not None
        return place.cache.put_tokens(self.number, place.places, both[..., 0, :], place.length)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset, for a model that makes masks of its own."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens that are there before the pass."""
        return self.place.start if self.place.row is not None else self.place.length - 1

    def get_max_length(self) -> int:
        """Tokens a row can hold."""
        return self.place.cache.capacity


def attention_mask(
    positions: torch.Tensor, length: int, window: int | None, dtype: torch.dtype
) -> torch.Tensor:
    """What tokens at positions (B, Q) may look at among `length`: 0 or -inf, (B, 1, Q, T).

    `window` tokens at most, their own included.
    """
    steps = torch.arange(length, device=positions.device)
    hidden = steps > positions[..., None]
    if window is not None:
        hidden |= steps <= positions[..., None] - window
    mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(hidden, -torch.inf)[:, None]


def layer_windows(model: PreTrainedModel) -> dict[str, int | None]:
    """The kinds of a model's attention layers, and how far back each looks; None is everything."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    kinds = dict.fromkeys(getattr(config, "layer_types", None) or [])
    if not kinds:
        return {"all": window if getattr(config, "use_sliding_window", True) else None}
    unknown = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    if unknown:
        raise OptionError(
            f"the language model has layers of kind {unknown[0]!r}; the engine knows full and "
            "sliding attention only"
        )
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def past_name(model: PreTrainedModel) -> str:
    """What a model's forward calls its cache: newer versions of transformers have another name."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


@torch.inference_mode()
def cache_shape(model: PreTrainedModel) -> CacheShape:
    """What a model writes into a cache, found out by running one token.

    Raises:
        OptionError: its layers are not all attention of one form, or it cannot be run so.
    """
    table = model.get_input_embeddings()
    embeddings = table(torch.zeros(1, 1, dtype=torch.long, device=model.device))
    past = DynamicCache()
    mask = embeddings.new_zeros(1, 1, 1, 1)
    masks = dict.fromkeys(layer_windows(model), mask)
    given = {past_name(model): past, "attention_mask": masks if len(masks) > 1 else mask}
    positions = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    try:
        model(
            inputs_embeds=embeddings,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **given,
        )
    except (TypeError, ValueError, RuntimeError) as error:  # positions in the scores, say (ALiBi)
        raise OptionError(
            "the engine needs a language model that takes positions and a mask of every query; "
            f"{type(model).__name__} does not: {error}"
        ) from error
    shapes = {
        tuple(tensor.shape)
        for layer in past.layers
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    }
    if len(shapes) != 1 or not all(
        getattr(layer, "keys", None) is not None for layer in past.layers
    ):
        raise OptionError(
            "the engine needs a language model whose layers all have keys and values of one shape; "
            f"{type(model).__name__} has not"
        )
    keys = cast("torch.Tensor", getattr(past.layers[0], "keys"))  # noqa: B009 - not of every layer
    return CacheShape(len(past.layers), keys.shape[1], keys.shape[3], keys.dtype, keys.device)

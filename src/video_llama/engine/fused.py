"""The same pass for models built like LLaMA, with few and large operations.

Queries, keys and values are one product, gate and up another, and positions are one product of
complex numbers. On a CPU all weights are copies, in the order that is fast (`matrix`) and in full
precision where it has no products of the model's own (`computing_type`).

Legend: B rows that run, Q tokens of a chunk, T tokens that are looked at, D width of the model,
G queries of a key-value head, H key-value heads, A = (G + 2) * H heads of one product, W width of a
head, I width of the MLP, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from video_llama.engine.cache import RowCache
from video_llama.engine.matrix import Matrix, multiplies
from video_llama.engine.runner import attention_mask

MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
MAX_COPIED_BYTES = 4 << 30  # a larger model spends its time in products anyway


@dataclass(frozen=True)
class Weights:
    """The weights of a layer."""

    input_norm: torch.Tensor
    qkv: Matrix  # D -> A * W
    out: Matrix  # G * H * W -> D
    mlp_norm: torch.Tensor
    gate_up: Matrix  # D -> 2 I
    down: Matrix  # I -> D


class FusedRunner:
    """Does what `TransformersRunner` does, for a model that `can_fuse` accepts."""

    def __init__(self, model: PreTrainedModel, cache: RowCache, longest: int) -> None:
        inner: Any = model.model
        self.cache = cache
        self.embeddings: nn.Module = model.get_input_embeddings()
        self.heads, self.width = cache.shape.heads, cache.shape.width
        self.queries = inner.config.num_attention_heads // self.heads  # G
        self.epsilon = inner.norm.variance_epsilon
        self.dtype = cache.shape.dtype
        self.norm = inner.norm.weight.to(self.dtype)
        head: Any = model.get_output_embeddings()
        self.head = Matrix(head.weight, self.dtype)  # D -> V
        self.layers = [fuse(layer, self.width, self.dtype) for layer in inner.layers]
        self.rotations = rotations(inner, longest)  # (positions, W / 2)

    @torch.inference_mode()
    def prefill(self, row: int, start: int, embeddings: torch.Tensor) -> torch.Tensor:
        """Run a chunk (Q, D) of a row that holds `start` tokens; logits (1, V) of the last one."""
        count = len(embeddings)
        rotation = self.rotations[start : start + count, None]
        mask = self._chunk_mask(start, count)
        hidden = embeddings.to(self.dtype)  # (Q, D)
        for number, weights in enumerate(self.layers):
            queries, both = self._project(hidden, weights, rotation)
            keys, values = self.cache.put_chunk(number, row, start, both.permute(1, 2, 0, 3))
            # (Q, H, G, W) -> (1, H, G * Q, W): the queries of a head stand beside one another.
            queries = queries.permute(1, 2, 0, 3).reshape(1, self.heads, -1, self.width)
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            mixed = mixed.reshape(self.heads * self.queries, count, self.width).transpose(0, 1)
            hidden = self._finish(hidden, mixed.reshape(count, -1), weights)
        return self._logits(hidden[-1:])

    @torch.inference_mode()
    def decode(self, ids: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
        """Run an id in each of the first B rows, which hold `lengths` tokens; logits (B, V)."""
        ids_and_positions = torch.tensor([ids, lengths], device=self.cache.shape.device)
        positions, length = ids_and_positions[1], max(lengths) + 1
        rotation = self.rotations[positions][:, None]
        places = self.cache.places(positions)
        mask = None  # rows of one length look at everything
        if min(lengths) + 1 < length:
            mask = attention_mask(positions[:, None], length, None, self.dtype)
        hidden = self.embeddings(ids_and_positions[0]).to(self.dtype)  # (B, D)
        count = len(ids)
        for number, weights in enumerate(self.layers):
            queries, both = self._project(hidden, weights, rotation)
            keys, values = self.cache.put_tokens(number, places, both, length)
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            hidden = self._finish(hidden, mixed.reshape(count, -1), weights)
        return self._logits(hidden)

    def _project(
        self, hidden: torch.Tensor, weights: Weights, rotation: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden (N, D) -> queries (N, H, G, W), keys and values (N, 2, H, W), turned."""
        normed = self._normalise(hidden, weights.input_norm)
        product = weights.qkv.times(normed).float()  # complex numbers have no half precision
        product = product.view(len(hidden), -1, self.width)  # (N, A, W)
        turned = (self.queries + 1) * self.heads
        pairs = product[:, :turned].unflatten(-1, (-1, 2))
        torch.view_as_complex(pairs).mul_(rotation)
        product = product.to(self.dtype)
        split = self.queries * self.heads
        queries = product[:, :split].unflatten(1, (self.heads, self.queries))
        return queries, product[:, split:].unflatten(1, (2, self.heads))

    def _finish(self, hidden: torch.Tensor, mixed: torch.Tensor, weights: Weights) -> torch.Tensor:
        """What attention found (N, G * H * W) and the MLP, added to hidden (N, D)."""
        hidden = weights.out.added(hidden, mixed)
        product = weights.gate_up.times(self._normalise(hidden, weights.mlp_norm))
        gate, up = product.chunk(2, dim=-1)
        return weights.down.added(hidden, F.silu(gate).mul_(up))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head.times(self._normalise(hidden, self.norm))

    def _normalise(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, weight.shape, weight, self.epsilon)

    def _chunk_mask(self, start: int, count: int) -> torch.Tensor | None:
        """(G * Q, T), None for a single token, which looks at everything."""
        if count == 1:
            return None
        end = start + count
        positions = torch.arange(start, end, device=self.cache.shape.device)[None]
        return attention_mask(positions, end, None, self.dtype)[0, 0].repeat(self.queries, 1)


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether a model is of a form that is known here, small enough to copy and not quantised."""
    if type(model).__name__ not in MODELS:
        return False
    inner: Any = model.model
    head: Any = model.get_output_embeddings()
    layer = inner.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    linear = [
        getattr(part, name)
        for one in inner.layers
        for part, name in [(one.self_attn, f"{p}_proj") for p in ("q", "k", "v", "o")]
        + [(one.mlp, f"{p}_proj") for p in ("gate", "up", "down")]
    ]
    plain = [attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    config = inner.config
    rope = config.rope_parameters["rope_type"]
    copied = sum(one.weight.numel() for one in [*linear, head] if one.weight is not None)
    windowed = getattr(config, "sliding_window", None) is not None and getattr(
        config, "use_sliding_window", True
    )
    return (
        all(type(one) is nn.Linear for one in [*linear, head])
        and all(one.bias is None for one in plain)
        and head.bias is None
        and config.hidden_act == "silu"
        and "dynamic" not in rope
        and rope != "longrope"
        and not windowed
        and copied * computing_type(model).itemsize <= MAX_COPIED_BYTES
    )


def computing_type(model: PreTrainedModel) -> torch.dtype:
    """The type in which `FusedRunner` computes: the model's, where the hardware multiplies that.

    A CPU that has no products of half precision converts number by number, so that many rows cost
    as much as each alone. There weights are copied in full precision, and so is the cache.
    """
    if model.device.type != "cpu" or multiplies(model.dtype):
        return model.dtype
    return torch.float32


@torch.no_grad()
def fuse(layer: Any, width: int, dtype: torch.dtype) -> Weights:
    """The weights of one layer. Halves of a head become pairs: (0, W/2, 1, W/2 + 1, ...)."""
    attention, mlp = layer.self_attn, layer.mlp
    order = torch.arange(width, device=attention.q_proj.weight.device).view(2, -1).t().flatten()

    def paired(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (-1, width))[:, order].flatten(0, 1)

    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (one.weight for one in projections)
    qkv = torch.cat([paired(query), paired(key), value])
    bias = None
    if attention.q_proj.bias is not None:
        query, key, value = (one.bias for one in projections)
        bias = torch.cat([paired(query), paired(key), value])
    return Weights(
        input_norm=layer.input_layernorm.weight.to(dtype),
        qkv=Matrix(qkv, dtype, bias),
        out=Matrix(attention.o_proj.weight, dtype),
        mlp_norm=layer.post_attention_layernorm.weight.to(dtype),
        gate_up=Matrix(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), dtype),
        down=Matrix(mlp.down_proj.weight, dtype),
    )


@torch.no_grad()
def rotations(inner: Any, longest: int) -> torch.Tensor:
    """cos + i sin of every position and pair (positions, W / 2), as the model itself turns."""
    device = inner.norm.weight.device
    positions = torch.arange(longest, device=device)[None]
    cos, sin = inner.rotary_emb(torch.zeros(1, device=device), positions)
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())

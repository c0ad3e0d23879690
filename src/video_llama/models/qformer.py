"""Helpers around transformers' Q-Former, which reproduces BLIP-2's to the last digits.

Legend: B batch, Q queries, S encoder states, D width of the Q-Former.
"""

import torch
from torch import nn
from transformers import Blip2QFormerModel


def ask(
    qformer: Blip2QFormerModel,
    query_tokens: torch.Tensor,
    states: torch.Tensor,
    states_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the queries gather from the states.

    `query_tokens` (1, Q, D), `states` (B, S, encoder width), `states_mask` (B, S) bool with True
    for states to be read. Returns (B, Q, D).
    """
    queries = query_tokens.expand(states.shape[0], -1, -1)
    output = qformer(
        query_embeds=queries,
        encoder_hidden_states=states,
        encoder_attention_mask=states_mask,
        return_dict=True,
    )
    return output.last_hidden_state


def position_rows(table: nn.Embedding, count: int, extension: str) -> torch.Tensor:
    """Rows 0 .. count-1 of a position table, (count, D), also when it has fewer rows.

    `extension` "interpolate" stretches all rows over the count linearly; "window" lets
    consecutive positions share a row. Both leave a count that fits untouched.
    """
    rows = table.num_embeddings
    if count <= rows:
        return _rows(table, torch.arange(count))
    if extension == "window":
        return _rows(table, torch.arange(count) * rows // count)
    whole = _rows(table, torch.arange(rows))
    stretched = nn.functional.interpolate(
        whole.T[None].float(), size=count, mode="linear", align_corners=True
    )
    return stretched[0].T.to(whole.dtype)


def _rows(table: nn.Embedding, index: torch.Tensor) -> torch.Tensor:
    """By calling the table: accelerate brings an offloaded weight for that alone."""
    offloaded = table.weight.is_meta
    return table(index if offloaded else index.to(table.weight.device))


def positions(
    table: nn.Embedding, shape: tuple[int, int], mask: torch.Tensor | None, extension: str
) -> torch.Tensor:
    """Rows of a position table for media of `shape` (M, T): (1 or M, T, D).

    `mask` (M, T) is False for padding: where the table has too few rows, each medium counts what
    it has itself, whatever else is in the batch.
    """
    longest = shape[1]
    if mask is None or longest <= table.num_embeddings or mask.all():
        return position_rows(table, longest, extension)[None]
    counts = mask.sum(1).tolist()
    found = torch.cat([position_rows(table, count, extension) for count in counts])
    rows = found.new_zeros(*shape, table.embedding_dim)
    rows[mask] = found
    return rows


def keep_frozen_in_eval(*modules: nn.Module) -> None:
    """A module of which nothing trains has no dropout and no moving statistics either."""
    for module in modules:
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()

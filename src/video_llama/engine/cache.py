"""Keys and values of the sequences that run: one row each, all of one capacity.

Legend: R rows, H key-value heads, C capacity of a row in tokens, W width of a head, B rows that
run, Q tokens of a chunk, T tokens that are looked at, N tokens of a snapshot.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CacheShape:
    """What of a model decides about its cache."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize


class RowCache:
    """Keys and values (2, R, H, C, W) of each layer.

    Memory is taken for a number of rows and a capacity; `resize` takes it anew, layer by layer.
    """

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.rows = 0
        self.capacity = 0
        self.layers: list[torch.Tensor] = []
        self._flat: list[torch.Tensor] = []
        self._firsts = torch.empty(0, dtype=torch.long)

    def resize(self, rows: int, capacity: int, live: int) -> None:
        """Change the number of rows and their capacity. The first `live` rows keep what fits."""
        if (rows, capacity) == (self.rows, self.capacity):
            return
        shape = self.shape
        kept = min(capacity, self.capacity)
        for number in range(shape.layers):
            # Zeros, because what a mask hides must still be finite: NaN times 0 is NaN.
            new = torch.zeros(
                (2, rows, shape.heads, capacity, shape.width),
                dtype=shape.dtype,
                device=shape.device,
            )
            if live:
                new[:, :live, :, :kept] = self.layers[number][:, :live, :, :kept]
            if number < len(self.layers):
                self.layers[number] = new
            else:
                self.layers.append(new)
        self.rows, self.capacity = rows, capacity
        self._flat = [layer.view(-1, shape.width) for layer in self.layers]
        heads = torch.arange(2 * rows * shape.heads, device=shape.device) * capacity
        # (R, 2H): where in `_flat` each head of each row begins.
        self._firsts = (
            heads.view(2, rows, shape.heads).transpose(0, 1).reshape(rows, 2 * shape.heads)
        )

    def places(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions (B) of the first B rows -> where `put_tokens` writes (B * 2H)."""
        return (self._firsts[: len(positions)] + positions[:, None]).view(-1)

    def put_tokens(
        self, layer: int, places: torch.Tensor, keys_values: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a token of each row, (B, 2, H, W) in any form of that order.

        Returns keys and values (B, H, T, W) of the first `length` tokens.
        """
        self._flat[layer].index_copy_(0, places, keys_values.reshape(-1, self.shape.width))
        count = len(places) // (2 * self.shape.heads)
        both = self.layers[layer][:, :count, :, :length]
        return both[0], both[1]

    def put_chunk(
        self, layer: int, row: int, start: int, keys_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write tokens (2, H, Q, W) of one row; keys and values (1, H, T, W) up to their end."""
        end = start + keys_values.shape[2]
        self.layers[layer][:, row, :, start:end] = keys_values
        both = self.layers[layer][:, row : row + 1, :, :end]
        return both[0], both[1]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another."""
        for layer in self.layers:
            layer[:, target, :, :length] = layer[:, source, :, :length]

    def read(self, row: int, length: int) -> torch.Tensor:
        """A snapshot of a row's first N tokens (layers, 2, H, N, W)."""
        return torch.stack([layer[:, row, :, :length] for layer in self.layers])

    def write(self, row: int, snapshot: torch.Tensor, length: int) -> None:
        """Put the first `length` tokens of a snapshot into a row."""
        for layer, kept in zip(self.layers, snapshot, strict=True):
            layer[:, row, :, :length] = kept[:, :, :length]

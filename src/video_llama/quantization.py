"""Weights in 8 bits: a quarter of the memory of float32, half of that of bfloat16.

Weights only: one scale for each row, computed from the row's largest magnitude, and products in the
type of the activations. The error of a weight is at most half a step, 1/254 of the largest of its
row.

Legend: O outputs, I inputs of a linear layer.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from video_llama.errors import OptionError

QUANTIZATIONS = ("int8",)
STEPS = 127  # on each side of zero


def require_quantization(name: str | None) -> None:
    """Raise OptionError for a quantization that is not there."""
    if name is not None and name not in QUANTIZATIONS:
        accepted = ", ".join(repr(known) for known in QUANTIZATIONS)
        raise OptionError(f"quantization is None or {accepted}, not {name!r}")


class Int8Linear(nn.Module):
    """A linear layer whose weight (O, I) is kept as int8 with a scale for each row (O, 1)."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        scale = scale / STEPS
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)  # float32: rounded further, it would shift a whole row
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) -> (..., O)."""
        weight, scale = self.weight.to(x.dtype), self.scale.squeeze(1)
        if x.dtype == torch.float16:  # which ends at 65504: whole steps times what comes in is more
            weight, scale = weight.mul_(2.0**-7), scale * 2.0**7  # exact
        product = (F.linear(x, weight) * scale).to(x.dtype)
        return product if self.bias is None else product + self.bias


def quantize_linear_layers(model: PreTrainedModel) -> None:
    """Replace the linear layers of a model in place, one at a time.

    The output head stays as it is: it may be tied to the embeddings, and the choice of the next
    token hangs on it.
    """
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                setattr(module, name, Int8Linear(layer))

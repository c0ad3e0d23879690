"""Weights in 8 bits."""

import pytest
import torch
from torch import nn

from video_llama.quantization import Int8Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_outputs_stay_numbers(dtype):
    """float16 ends at 65504, and whole steps times what comes in are more than that."""
    torch.manual_seed(0)
    layer = nn.Linear(4096, 8, bias=False)
    nn.init.normal_(layer.weight, std=0.02)
    x = layer.weight[:4].detach() * 700  # along rows: outputs of more than 1,000
    wanted = layer(x)
    said = Int8Linear(layer)(x.to(dtype))
    assert wanted.max() > 1000
    assert said.dtype == dtype
    assert said.float() == pytest.approx(wanted.detach(), rel=0.02, abs=4.0)

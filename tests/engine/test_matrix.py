import pytest
import torch
from torch.nn import functional as F

from video_llama.engine import matrix
from video_llama.engine.matrix import Matrix, packs

HALF = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("small", [0, 1 << 20])
@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize(
    ("dtype", "packed"),
    [(dtype, False) for dtype in (torch.float32, *HALF)]
    + [(dtype, True) for dtype in (torch.float32, *HALF) if packs(torch.empty(0), dtype)],
)
def test_products_are_those_of_a_linear_layer(dtype, rows, packed, small, monkeypatch):
    monkeypatch.setattr(matrix, "SMALL", small)
    if not packed:
        monkeypatch.setattr(matrix, "packs", lambda weight, dtype: False)
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(24, 40, generator=generator).to(dtype)
    x, to = (torch.randn(rows, n, generator=generator).to(dtype) for n in (40, 24))
    bias = torch.randn(24, generator=generator).to(dtype)
    exact = F.linear(x.double(), weight.double())
    near = {"rtol": 0.01, "atol": 0.1} if dtype != torch.float32 else {"rtol": 1e-5, "atol": 1e-4}
    with torch.inference_mode():
        made = Matrix(weight, dtype, bias)
        assert made.packed == packed
        torch.testing.assert_close(made.times(x).double(), exact + bias.double(), **near)
        assert made.times(x).dtype == dtype
        plain = Matrix(weight, dtype)
        torch.testing.assert_close(plain.times(x).double(), exact, **near)
        torch.testing.assert_close(plain.added(to, x).double(), exact + to.double(), **near)


def test_a_weight_in_another_type_is_copied():
    weight = torch.randn(4, 6).to(torch.bfloat16)
    made = Matrix(weight, torch.float32)
    with torch.inference_mode():
        assert torch.equal(made.times(torch.eye(6)), weight.float().t())

"""A weight, kept in the order in which its products are fast.

Legend: N, K rows and columns of a weight as `nn.Linear` has it, B rows it is multiplied with.
"""

import platform

import torch

SMALL = 1 << 20  # numbers of a weight that is kept for single rows too


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has products of a type, as oneDNN sees it."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return True


def packs(weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether products of a weight in a type are faster packed.

    Those of half precision on a CPU are oneDNN's, which brings a weight into blocks before every
    product; done once, products with up to 64 rows take about six tenths of the time. torch does
    that itself when it compiles a frozen model. Those of full precision are MKL's. On an AMD EPYC
    with AVX-512 oneDNN's with 16 rows take 0.3 to 0.7 of their time, of the smallest weights of
    nano (192 by 192) as long; on an Intel this was not measured.
    """
    if weight.device.type != "cpu" or not multiplies(dtype):
        return False
    if dtype == torch.float32:
        return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
    return dtype in (torch.bfloat16, torch.float16)


class Matrix:
    """A weight (N, K) and perhaps a bias (N), to be multiplied with rows.

    Attributes:
        packed: it is kept in oneDNN's own order.
    """

    def __init__(
        self, weight: torch.Tensor, dtype: torch.dtype, bias: torch.Tensor | None = None
    ) -> None:
        weight = weight.detach().to(dtype)
        self._bias = None if bias is None else bias.detach().to(dtype)
        self.packed = packs(weight, dtype)
        self._packed = self._turned = weight[:0]
        # Of a single row and a small weight a call of oneDNN takes longer than the product.
        self._apart = self.packed and dtype == torch.float32 and weight.numel() <= SMALL
        if self.packed:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        if self._apart or not self.packed:  # (K, N)
            self._turned = weight.t()
            if weight.device.type == "cpu":  # a copy: with 16 rows in 0.6 to 1.0 of the time
                self._turned = self._turned.contiguous()

    def times(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (B, K) -> (B, N), the bias added."""
        if self._blocked(rows):
            linear = torch.ops.mkldnn._linear_pointwise
            return linear(rows, self._packed, self._bias, "none", [], "")
        if self._bias is not None:
            return torch.addmm(self._bias, rows, self._turned)
        return torch.mm(rows, self._turned)

    def added(self, to: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """`to` (B, N) and rows (B, K) -> their product added to it, without the bias."""
        if self._blocked(rows):
            linear = torch.ops.mkldnn._linear_pointwise
            return linear.binary(rows, to, self._packed, None, "add")
        return torch.addmm(to, rows, self._turned)

    def _blocked(self, rows: torch.Tensor) -> bool:
        return self.packed and not (self._apart and len(rows) == 1)

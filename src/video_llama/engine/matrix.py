"""A weight, kept in the order in which its products are fast.

Legend: N, K rows and columns of a weight as `nn.Linear` has it, B rows it is multiplied with.
"""

import torch


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
    that itself when it compiles a frozen model.
    """
    return weight.device.type == "cpu" and dtype != torch.float32 and multiplies(dtype)


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
        if self.packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        else:  # (K, N)
            self._weight = weight.t()
            if weight.device.type == "cpu":  # a copy: with 16 rows in 0.6 to 1.0 of the time
                self._weight = self._weight.contiguous()

    def times(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (B, K) -> (B, N), the bias added."""
        if self.packed:
            linear = torch.ops.mkldnn._linear_pointwise
            return linear(rows, self._weight, self._bias, "none", [], "")
        if self._bias is not None:
            return torch.addmm(self._bias, rows, self._weight)
        return torch.mm(rows, self._weight)

    def added(self, to: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """`to` (B, N) and rows (B, K) -> their product added to it, without the bias."""
        if self.packed:
            linear = torch.ops.mkldnn._linear_pointwise
            return linear.binary(rows, to, self._weight, None, "add")
        return torch.addmm(to, rows, self._weight)

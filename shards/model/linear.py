"""A linear layer whose weights are laid out for the machine once, at load."""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F

_FEWEST_TO_PACK = 1 << 18


class Linear:
    """y = x W^T + b for `weight` [out, in] and `bias` [out] or None.

    On x86 CPUs the weight is reordered for oneDNN, in the same precision and memory. Measured on one
    thread of a Zen 5 with W of 5632 x 1024, for 1 / 8 / 64 rows: float32 1.34 / 3.17 / 9.6 ms plain and
    1.05 / 2.23 / 7.9 ms reordered; bfloat16 1.13 / 1.44 / 4.3 ms and 0.64 / 0.74 / 3.5 ms.
    In a float32 model of 12 blocks of that width, with other work on the machine, a step of 8 sessions fell
    from 117 to 63 ms and one of a single session stayed at 47 ms. Calling oneDNN costs 12 µs more, so small
    weights stay as they are.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, pack: bool = True) -> None:
        self._packed = pack and weight.numel() >= _FEWEST_TO_PACK and can_pack(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()) if self._packed else weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [n, in] to [n, out]."""
        if self._packed:
            result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return result
        return F.linear(x, self._weight, self._bias)


def can_pack(weight: torch.Tensor) -> bool:
    """True where oneDNN's reordered weights are to be had and faster than torch's own layout."""
    if weight.device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not torch._C._has_mkldnn:
        return False
    match weight.dtype:
        case torch.float32:
            return True
        case torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        case torch.float16:
            return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
        case _:
            return False

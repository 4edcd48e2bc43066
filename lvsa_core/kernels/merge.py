"""Joining two attention outputs over disjoint keys by their log-sum-exps."""

from __future__ import annotations

import torch
from torch import Tensor


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Make ``out`` the attention over both key sets, in place.

    With weights ``w = sigmoid(other_lse - lse)`` the result is ``out + w * (other - out)``. Natural logarithms.

    Args:
        out, other: [N, S, H, D], same shape and dtype; ``out`` may be a strided view.
        lse, other_lse: [N, H, S], float32 or wider.
    """
    weight = torch.sigmoid(other_lse - lse).transpose(1, 2).unsqueeze(-1)
    if out.dtype == weight.dtype:
        out.lerp_(other, weight)
    else:  # half precision: the weights keep their precision, one rounding at the end
        out.copy_(out.to(weight.dtype).lerp_(other.to(weight.dtype), weight))

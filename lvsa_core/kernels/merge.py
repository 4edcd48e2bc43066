"""Joining two attention outputs over disjoint keys by their log-sum-exps."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

#: What joins an output and its log-sum-exp with others, see :func:`merge_`.
Merge: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], None]

#: How many elements PyTorch's operators merge at a time, so that their float32 copies stay small.
CHUNK = 2**24


def merge_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Make ``out`` the attention over both sets of keys, in place; on GPUs by a Triton kernel, in one pass over memory.

    The result is ``out + w * (other - out)`` with weights ``w = sigmoid(other_lse - lse)``; logarithms are natural. A
    row of ``other`` that attends to no keys leaves ``out`` as it is: its log-sum-exp is infinite, with either sign
    (kernels differ), and its numbers are finite.

    Args:
        out, other: [N, S, H, D], same shape and dtype; ``out`` may be a strided view.
        lse, other_lse: [N, H, S], float32 or wider.
    """
    _merge_on(out.device)[0](out, lse, other, other_lse)


def merging(merge: Merge, bias: float = 0.0) -> Merge:
    """``merge`` with a bias of the other part's scores, which leaves in ``lse`` that of both, for more to come."""

    def merge_more(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
        other_lse = other_lse + bias if bias else other_lse
        merge(out, lse, other, other_lse)
        lse.copy_(torch.where(other_lse.isinf(), lse, torch.logaddexp(lse, other_lse)))

    return merge_more


def passed_over(device: torch.device) -> str | None:
    """Why the Triton kernel is not used on a device that should have it; None if it is, or if the device needs none."""
    return _merge_on(device)[1]


def merge_eager_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """:func:`merge_` with PyTorch's operators, a part of the rows at a time."""
    if out.numel() <= CHUNK:
        return _merge_rows_(out, lse, other, other_lse)
    rows = max(1, CHUNK * out.shape[1] // out.numel())
    for first in range(0, out.shape[1], rows):
        held = slice(first, first + rows)
        _merge_rows_(out[:, held], lse[..., held], other[:, held], other_lse[..., held])


def _merge_rows_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    weight = torch.sigmoid(other_lse - lse)
    weight = torch.where(other_lse.isinf(), 0, weight).transpose(1, 2).unsqueeze(-1)
    if out.dtype == weight.dtype:
        out.lerp_(other, weight)
    else:  # half precision: computed in the precision of the weights, and rounded once
        out.copy_(out.to(weight.dtype).lerp_(other.to(weight.dtype), weight))


@lru_cache(maxsize=64)
def _merge_on(device: torch.device) -> tuple[Merge, str | None]:
    """The fastest merge that works on a device, and why a faster one does not, if there is one."""
    if device.type != "cuda":
        return merge_eager_, None
    try:  # Triton needs a C compiler for its first call
        from lvsa_core.kernels.triton_merge import merge_triton_

        out, lse, other = _probe(device)
        merge_triton_(out, lse, other, lse)
        if not torch.equal(out, torch.full_like(out, 0.5)):
            return merge_eager_, "its result is wrong"
    except Exception as error:  # whatever Triton raises here, the other merge works
        return merge_eager_, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return merge_triton_, None


def _probe(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors with the dtypes of real calls: an engine changes PyTorch's default while it builds models."""
    out = torch.zeros(1, 3, 1, 8, dtype=torch.bfloat16, device=device)
    return out, torch.zeros(1, 1, 3, dtype=torch.float32, device=device), torch.ones_like(out)

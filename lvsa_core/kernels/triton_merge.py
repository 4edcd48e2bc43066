"""The merge by log-sum-exp as a Triton kernel, which reads both outputs once and writes one."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS = 32


@triton.jit
def _merge(
    out, lse, other, other_lse, rows, heads, size,
    out_n, out_s, out_h, lse_n, lse_h, lse_s, other_n, other_s, other_h, other_lse_n, other_lse_h, other_lse_s,
    BLOCK_ROWS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Merge one block of query rows of one head of one entry.

    Offsets have 64 bits: a 720p video of T=121 has more than 2**31 elements. Neighbouring programs compute the heads of
    the same rows, which stand side by side in memory.
    """
    head, block = (tl.program_id(0) % heads).to(tl.int64), (tl.program_id(0) // heads).to(tl.int64)
    entry = tl.program_id(1).to(tl.int64)
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_SIZE)
    held = row < rows
    first = tl.load(lse + entry * lse_n + head * lse_h + row * lse_s, mask=held, other=0.0)
    second = tl.load(other_lse + entry * other_lse_n + head * other_lse_h + row * other_lse_s, mask=held, other=0.0)
    empty = (second == float("inf")) | (second == float("-inf"))
    weight = tl.where(empty, 0.0, 1.0 / (1.0 + tl.exp(first - second)))[:, None]

    inside = held[:, None] & (column < size)[None, :]
    out += entry * out_n + head * out_h + row[:, None] * out_s + column[None, :]
    other += entry * other_n + head * other_h + row[:, None] * other_s + column[None, :]
    x = tl.load(out, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(other, mask=inside & (weight > 0.0), other=0.0).to(tl.float32)
    tl.store(out, (x + weight * (y - x)).to(out.dtype.element_ty), mask=inside)


def merge_triton_(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """See :func:`lvsa_core.kernels.merge.merge_`. The last dimension of ``out`` and ``other`` must be contiguous."""
    entries, rows, heads, size = out.shape
    grid = (triton.cdiv(rows, BLOCK_ROWS) * heads, entries)
    with torch.cuda.device_of(out):  # Triton launches on the current device
        _merge[grid](
            out, lse, other, other_lse, rows, heads, size,
            *out.stride()[:3], *lse.stride(), *other.stride()[:3], *other_lse.stride(),
            BLOCK_ROWS=BLOCK_ROWS, BLOCK_SIZE=triton.next_power_of_2(size),
        )  # fmt: skip

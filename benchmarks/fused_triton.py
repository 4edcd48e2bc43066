"""A candidate, not part of the package: prefix and window in one Triton kernel with one running softmax.

The registered kernels compute the prefix and the windows apart and merge them by their log-sum-exps. Here each block of
query rows reads the keys of its prefix, then those of its run, and writes its output once: no log-sum-exps, no merge,
and no permuted copy of the queries. It is for GPUs without a FlashAttention build and joins
:data:`lvsa_core.kernels.KERNELS` if a measurement on one shows that it pays: ``gpu.py`` checks and times it. It runs
from compute capability 7.5 on, but below 8.0 without tensor cores: Triton emits no matrix instructions for those GPUs.

Source: FlashAttention-2 (arXiv 2307.08691), algorithm 1, over two ranges of keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lvsa_core.cascade import _on_device, cascade, runs, tables
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels.cuda import HALF, capability, unfit
from lvsa_core.kernels.prefix_window import prefix_first
from lvsa_core.pattern import Pattern

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch's builds for CPUs and for Windows have no Triton; ``available`` says so
    triton = None


def _jit(function: Callable[..., None]) -> Any:
    return triton.jit(function) if triton else function


@_jit
def _attend_keys(
    acc, top, total, rows, k, v, start, keys, prefix, k_start, k_s, v_s, scale,
    SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_KEYS: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of keys: the output not yet divided, the largest score and the sum of weights, all of each row."""
    key = start + tl.arange(0, BLOCK_KEYS)
    at = (key + tl.where(key < prefix, 0, k_start)).to(tl.int64)[:, None]  # the run follows the prefix
    column = tl.arange(0, BLOCK_SIZE)[None, :]
    inside = (key < keys)[:, None] & (column < SIZE) if LAST else column < SIZE
    if LAST or SIZE < BLOCK_SIZE:
        block_k = tl.load(k + at * k_s + column, mask=inside, other=0.0)
        block_v = tl.load(v + at * v_s + column, mask=inside, other=0.0)
    else:
        block_k = tl.load(k + at * k_s + column)
        block_v = tl.load(v + at * v_s + column)

    score = tl.dot(rows, tl.trans(block_k), input_precision=PRECISION)
    if LAST:
        score = tl.where((key < keys)[None, :], score, float("-inf"))
    new_top = tl.maximum(top, tl.max(score, 1) * scale)
    weight = tl.exp2(score * scale - new_top[:, None])
    decay = tl.exp2(top - new_top)
    total = total * decay + tl.sum(weight, 1)
    acc = tl.dot(weight.to(block_v.dtype), block_v, acc * decay[:, None], input_precision=PRECISION)
    return acc, new_top, total


@_jit
def _attend_rows(
    q, k, v, out, blocks, prefix, group, scale,
    q_b, q_s, q_h, k_b, k_s, k_h, v_b, v_s, v_h, out_b, out_s, out_h,
    SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of query rows of one head of one entry. Offsets are 64-bit: 720p at T=121 passes 2**31 elements.

    Neighbouring programs are the blocks of one head, whose runs overlap. The prefix holds a key, so that no row is
    without one: neither padding, nor a frame whose window has only anchors.
    """
    block, head, entry = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    first_row, end_row = tl.load(blocks + block * 4), tl.load(blocks + block * 4 + 1)
    k_start, keys = tl.load(blocks + block * 4 + 2), prefix + tl.load(blocks + block * 4 + 3)

    row, column = first_row + tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_SIZE)[None, :]
    inside = (row < end_row)[:, None] & (column < SIZE)
    row = row.to(tl.int64)[:, None]
    rows = tl.load(q + entry * q_b + head * q_h + row * q_s + column, mask=inside, other=0.0)
    k += entry * k_b + head // group * k_h
    v += entry * v_b + head // group * v_h

    acc = tl.full([BLOCK_ROWS, BLOCK_SIZE], 0.0, tl.float32)
    top = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.full([BLOCK_ROWS], 0.0, tl.float32)
    last = (keys - 1) // BLOCK_KEYS * BLOCK_KEYS
    for start in range(0, last, BLOCK_KEYS):
        acc, top, total = _attend_keys(
            acc, top, total, rows, k, v, start, keys, prefix, k_start, k_s, v_s, scale,
            SIZE, BLOCK_SIZE, BLOCK_KEYS, False, PRECISION,
        )  # fmt: skip
    acc, top, total = _attend_keys(
        acc, top, total, rows, k, v, last, keys, prefix, k_start, k_s, v_s, scale,
        SIZE, BLOCK_SIZE, BLOCK_KEYS, True, PRECISION,
    )  # fmt: skip
    out += entry * out_b + head * out_h + row * out_s + column
    tl.store(out, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)


def tiles(dtype: torch.dtype, head_size: int, found: tuple[int, int]) -> dict[str, Any]:
    """Sizes of blocks and how Triton compiles them: little is spilled, and they fit in the shared memory of a block.

    Args:
        found: the compute capability. 8.0, 9.0 and 10.x have over 160 KiB of that memory, 7.5 has 64, the others 99.
    """
    rows, keys, warps = (128, 64, 8) if head_size <= 128 else (64, 32, 8)
    if dtype == torch.float32:
        rows, keys, warps = 32, 32, 4
    elif found < (8, 0):
        rows, keys, warps = 32, 32, 8
    return {
        "SIZE": head_size, "BLOCK_SIZE": max(16, 1 << (head_size - 1).bit_length()),
        "BLOCK_ROWS": rows, "BLOCK_KEYS": keys,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "tf32",  # three products, nearly as exact as float32
        "num_warps": warps, "num_stages": 3 if found in ((8, 0), (9, 0)) or found[0] == 10 else 2,
    }  # fmt: skip


@lru_cache(maxsize=256)
def row_blocks(pattern: Pattern, layout: TokenLayout, rows: int, device: torch.device) -> Tensor:
    """Blocks of at most ``rows`` query rows that share a run, as int32 [n, 4] on the device.

    Each is the first row, the end of its group, the start of the run in the remaining frames, and its length. Those
    with the most keys come first, so that none of them is left over when the others are done.
    """
    found = runs(pattern, layout)
    groups = [*zip(found.q_starts[:-1], found.q_starts[1:], found.k_starts[:-1], found.k_rows, strict=True)]
    if not cascade(pattern, layout).remaining:
        groups = [(0, layout.q_tokens, 0, 0)]  # dense: the prefix is everything
    blocks = []
    for run, sharing in groupby(groups, key=lambda group: group[2:]):
        (start, end, *_), *others = sharing
        end = others[-1][1] if others else end
        blocks += [(first, end, *run) for first in range(start, end, rows)]
    blocks.sort(key=lambda block: -block[3])
    return _on_device([value for block in blocks for value in block], device).view(-1, 4)


class FusedTriton:
    """Prefix and window in one kernel; a :class:`lvsa_core.kernels.Kernel`."""

    name = "fused-triton"
    family = "candidate"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """None if the kernel runs there, else the reason it does not."""
        needs = (7, 5) if dtype == torch.float16 else (8, 0)
        if reason := unfit(device, dtype, head_size, dtypes=(*HALF, torch.float32), needs=needs):
            return reason
        if dtype == torch.float32 and head_size > 128:
            return f"head size must be at most 128 for float32, got {head_size}"  # Triton compiles for a minute
        return None if triton else "Triton is not installed"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
        """Sparse attention of one layer; see :func:`lvsa_core.attend`. Rows of padding hold anything."""
        calls = cascade(pattern, layout)
        if calls.remaining or layout.pad:
            order = tables(pattern, layout, q.device).order
            k, v = (prefix_first(x, layout, order) for x in (k, v))
        prefix = layout.kv_before + layout.kv_after + len(calls.anchors) * layout.grid.patches
        batch, _, heads, size = q.shape
        found = capability(q.device) if q.device.type == "cuda" else (8, 0)  # Triton's interpreter runs on the CPU
        options = tiles(q.dtype, size, found)
        blocks = row_blocks(pattern, layout, options["BLOCK_ROWS"], q.device)
        out = q.new_empty(q.shape)
        _attend_rows[(len(blocks), heads, batch)](
            q, k, v, out, blocks, prefix, heads // k.shape[2], scale * math.log2(math.e),
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], **options,
        )  # fmt: skip
        return out

"""``attend``: LVSA's attention as a prefix call, a handful of batched window calls, and a merge."""

from __future__ import annotations

import torch
from torch import Tensor

from lvsa_core.cascade import Batch, Cascade, cascade, frame_indices
from lvsa_core.checks import check_call
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels import select
from lvsa_core.kernels.merge import merge_
from lvsa_core.pattern import Pattern


@torch.no_grad()
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layout: TokenLayout,
    *,
    scale: float | None = None,
    kernel: str = "auto",
) -> Tensor:
    """Attention in which video frames attend by ``pattern`` and all other tokens to everything.

    Args:
        q: queries [B, Sq, H, D], in the order that ``layout`` says.
        k, v: keys and values [B, Sk, Hkv, D]; H is a multiple of Hkv (grouped-query heads).
        pattern: which frame attends to which.
        layout: where the video stands among the tokens.
        scale: multiplies the scores; None: 1/sqrt(D).
        kernel: ``auto`` or the name of a kernel in :mod:`lvsa_core.kernels`.

    Returns:
        [B, Sq, H, D] in the dtype of ``q``; rows of padding are zero. Besides inputs and output it needs one permuted
        copy of K and V, less than a copy of Q, and the log-sum-exps.

    Raises:
        ValueError: if shapes, heads, layout or scale do not fit.
        KernelUnavailable: if no kernel runs on this device, dtype and head size.

    Source: arXiv 2605.31057; joining by log-sum-exp as in FlashAttention's split keys.
    """
    scale = check_call(q, k, v, pattern, layout, scale)
    run = select(kernel, q.device, q.dtype, q.shape[3]).attention
    if not q.numel():
        return torch.empty_like(q)
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    calls = cascade(pattern, layout)
    if calls.remaining or layout.pad:
        k, v = (_prefix_first(x, layout, calls) for x in (k, v))
    prefix = layout.kv_before + layout.kv_after + len(calls.anchors) * layout.grid.patches

    out, lse = run(q, k[:, :prefix], v[:, :prefix], scale)
    k, v, lse = k[:, prefix:], v[:, prefix:], lse.transpose(1, 2)
    for batch in calls.batches:
        for queries, keys, values, rows, rows_lse in zip(q, k, v, out, lse, strict=True):
            window, window_lse = run(_groups(queries, batch), _runs(keys, batch), _runs(values, batch), scale)
            merge_(_groups(rows, batch), _groups(rows_lse, batch).transpose(1, 2), window, window_lse)
    if layout.video_rows > layout.real_rows:
        out[:, layout.q_before + layout.real_rows : layout.q_before + layout.video_rows] = 0
    return out


def _prefix_first(x: Tensor, layout: TokenLayout, calls: Cascade) -> Tensor:
    """Keys or values [B, Sk, Hkv, D] copied to [B, Sk - pad, Hkv, D] in the order other tokens, anchors, remaining."""
    grid, before, after = layout.grid, layout.kv_before, layout.kv_after
    copy = x.new_empty(x.shape[0], before + after + grid.tokens, *x.shape[2:])
    copy[:, :before] = x[:, :before]
    copy[:, before : before + after] = x[:, layout.kv_tokens - after :]
    shape, anchors = (x.shape[0], grid.frames, grid.patches, *x.shape[2:]), len(calls.anchors)
    video, frames = x[:, before : before + grid.tokens].view(shape), copy[:, before + after :].view(shape)
    torch.index_select(video, 1, frame_indices(calls.anchors, x.device), out=frames[:, :anchors])
    torch.index_select(video, 1, frame_indices(calls.remaining, x.device), out=frames[:, anchors:])
    return copy


def _groups(x: Tensor, batch: Batch) -> Tensor:
    """Rows [S, ...] as [size, q_rows, ...], a view."""
    return _strided(x, batch.size, batch.q_start, batch.q_step, batch.q_rows)


def _runs(x: Tensor, batch: Batch) -> Tensor:
    """Rows [S, ...] as [size, k_rows, ...], a view whose entries may overlap."""
    return _strided(x, batch.size, batch.k_start, batch.k_step, batch.k_rows)


def _strided(x: Tensor, size: int, start: int, step: int, rows: int) -> Tensor:
    row = x.stride(0)
    return x.as_strided(
        (size, rows, *x.shape[1:]), (step * row, row, *x.stride()[1:]), x.storage_offset() + start * row
    )

"""``attend``: LVSA's attention as a prefix call, a handful of batched window calls, and a merge."""

from __future__ import annotations

import torch
from torch import Tensor

from lvsa_core.cascade import Batch, cascade, frame_indices
from lvsa_core.checks import check_call
from lvsa_core.grid import FrameGrid, TokenLayout
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
        [B, Sq, H, D] in the dtype of ``q``, not always contiguous; rows of padding are zero. Besides inputs and output
        it needs one permuted copy of K and V (of Q too, if B > 1) and the log-sum-exps.

    Raises:
        ValueError: if shapes, heads, layout or scale do not fit.
        KernelUnavailable: if no kernel runs on this device, dtype and head size.

    Source: arXiv 2605.31057; joining by log-sum-exp as in FlashAttention's split keys.
    """
    scale = check_call(q, k, v, pattern, layout, scale)
    run = select(kernel, q.device, q.dtype, q.shape[3]).attention
    if not q.numel():
        return torch.empty_like(q)
    calls = cascade(pattern, layout)
    queries = _token_major(q)
    prefix = layout.kv_before + layout.kv_after + len(calls.anchors) * layout.grid.patches
    if calls.remaining or layout.pad:
        keys, values = (_prefix_first(x, layout, calls.anchors, calls.remaining) for x in (k, v))
    else:
        keys, values = _token_major(k), _token_major(v)

    out, lse = run(queries[None], keys[None, :prefix], values[None, :prefix], scale)
    keys, values = keys[prefix:], values[prefix:]
    rows = lse[0].T
    for batch in calls.batches:
        window, window_lse = run(_query_groups(queries, batch), _runs(keys, batch), _runs(values, batch), scale)
        merge_(_query_groups(out[0], batch), _query_groups(rows, batch).transpose(1, 2), window, window_lse)
    if layout.video_rows > layout.real_rows:
        out[0, layout.q_before + layout.real_rows : layout.q_before + layout.video_rows] = 0
    return out[0].view(-1, q.shape[0], *q.shape[2:]).transpose(0, 1)


def _token_major(x: Tensor) -> Tensor:
    """[B, S, H, D] as [S, B * H, D]: a view for one batch entry, else a copy."""
    x = x if x.stride(3) == 1 else x.contiguous()
    return x[0] if x.shape[0] == 1 else x.transpose(0, 1).flatten(1, 2)


def _prefix_first(x: Tensor, layout: TokenLayout, anchors: tuple[int, ...], remaining: tuple[int, ...]) -> Tensor:
    """Keys or values [B, Sk, Hkv, D] copied to [Sk - pad, B * Hkv, D] in the order other tokens, anchors, remaining."""
    grid, before, after = layout.grid, layout.kv_before, layout.kv_after
    tokens = x.transpose(0, 1)
    video = _by_frame(tokens[before : before + grid.tokens], grid)
    copy = x.new_empty(before + after + grid.tokens, *tokens.shape[1:])
    copy[:before] = tokens[:before]
    copy[before : before + after] = tokens[layout.kv_tokens - after :]
    frames = _by_frame(copy[before + after :], grid)
    torch.index_select(video, 0, frame_indices(anchors, x.device), out=frames[: len(anchors)])
    torch.index_select(video, 0, frame_indices(remaining, x.device), out=frames[len(anchors) :])
    return copy.flatten(1, 2)


def _by_frame(x: Tensor, grid: FrameGrid) -> Tensor:
    """Tokens [T * P, ...] as [T, P, ...], a view."""
    return _strided(x, grid.frames, 0, grid.patches, grid.patches)


def _query_groups(x: Tensor, batch: Batch) -> Tensor:
    """Rows [S, ...] as [count, q_rows, ...], a view."""
    return _strided(x, batch.count, batch.q_start, batch.q_step, batch.q_rows)


def _runs(x: Tensor, batch: Batch) -> Tensor:
    """Rows [S, ...] as [count, k_rows, ...], a view whose entries may overlap."""
    return _strided(x, batch.count, batch.k_start, batch.k_step, batch.k_rows)


def _strided(x: Tensor, count: int, start: int, step: int, rows: int) -> Tensor:
    row = x.stride(0)
    return x.as_strided(
        (count, rows, *x.shape[1:]), (step * row, row, *x.stride()[1:]), x.storage_offset() + start * row
    )

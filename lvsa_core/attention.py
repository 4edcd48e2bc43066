"""``attend``: LVSA's attention of one layer, by the fastest kernel there is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lvsa_core.call import Numbers, lvsa_attend, register
from lvsa_core.checks import check_call
from lvsa_core.grid import FrameGrid, TokenLayout
from lvsa_core.kernels import Kernel, select
from lvsa_core.kernels.prefix_window import Arriving, PrefixWindow
from lvsa_core.memory import CallSize, HeadGroups
from lvsa_core.pattern import Pattern
from lvsa_core.positions import Remap, TemporalAxis


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layout: TokenLayout,
    *,
    scale: float | None = None,
    kernel: str = "auto",
    head_groups: HeadGroups | None = None,
) -> Tensor:
    """Attention in which video frames attend by ``pattern`` and all other tokens to everything.

    It has no gradient. ``torch.compile`` takes it as one operator, also with ``fullgraph=True``, of which it makes no
    CUDA graph.

    Args:
        q: queries [B, Sq, H, D], in the order that ``layout`` says.
        k, v: keys and values [B, Sk, Hkv, D]; H is a multiple of Hkv (grouped-query heads).
        pattern: which frame attends to which.
        layout: where the video stands among the tokens.
        scale: multiplies the scores; None: 1/sqrt(D).
        kernel: ``auto``, a family (``flash``, ``flashinfer``, ``sdpa``) or the name of a kernel in
            :mod:`lvsa_core.kernels`; ``auto,-NAME`` leaves one out. Its first use on a device, dtype and head size runs
            a self-test.
        head_groups: decide how many heads are computed at a time, for calls that share a memory budget; None, and
            always where torch.compile traces the call: all heads, and fewer if memory runs out.

    Returns:
        [B, Sq, H, D] in the dtype of ``q``; rows of padding are zero. Besides inputs and output it needs one permuted
        copy of K and V, at most one of Q, and the log-sum-exps, of the heads that are computed at a time.

    Raises:
        ValueError: if shapes, heads, layout or scale do not fit, or an input requires a gradient while gradients are
            recorded.
        KernelUnavailable: if no kernel runs on this device, dtype and head size, or none of these computes the pattern.

    Source: arXiv 2605.31057; joining by log-sum-exp as in FlashAttention's split keys.
    """
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise ValueError(
            "attend has no gradient, but an input requires one: call it under torch.no_grad() or "
            "torch.inference_mode(), or give it detached tensors"
        )
    if torch.compiler.is_compiling():
        out: Tensor = lvsa_attend(q, k, v, None, None, scale, _TRACED.number, *_TRACED.call(pattern, layout, kernel))
        return out
    scale = check_call(q, k, v, pattern, layout, scale)
    if not q.numel():
        return torch.empty_like(q)
    chosen = select(kernel, q.device, q.dtype, q.shape[3], pattern.plain).kernel
    with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
        return compute(chosen, q, k, v, pattern, layout, scale, head_groups)


def compute(
    kernel: Kernel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layout: TokenLayout,
    scale: float,
    head_groups: HeadGroups | None = None,
    arriving: Arriving | None = None,
) -> Tensor:
    """:func:`attend` by one kernel, of arguments that have been checked, where no gradients are recorded.

    Args:
        arriving: what of the keys is not there yet; only for kernels that are :class:`PrefixWindow`.
    """
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    size = CallSize.of(q, k, moved=pattern.grouping is not None)
    count = 1 if head_groups is None else head_groups.count(size, q.device)

    def of_heads(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        if not isinstance(kernel, PrefixWindow):
            options.pop("out", None)
        return kernel.attend(q, k, v, pattern, layout, scale, **options)

    waiting = {} if arriving is None else {"arriving": arriving}
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]  # some kernels use the current device
        try:
            out = of_heads(q, k, v, **waiting) if count == 1 else _in_groups(of_heads, q, k, v, size, count, waiting)
        except torch.OutOfMemoryError:
            more = size.more(count) if head_groups is None else head_groups.more(size)
            if more == count:
                raise
            out = None  # and again outside of this block, as the error in it keeps the buffers
        if out is None:
            torch.cuda.empty_cache()
            if arriving is not None:
                arriving.wait()
            out = _in_groups(of_heads, q, k, v, size, more, {})
    if layout.video_rows > layout.real_rows:
        out[:, layout.q_before + layout.real_rows : layout.q_before + layout.video_rows] = 0
    return out


def _in_groups(
    of_heads: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, size: CallSize, count: int, waiting: Any
) -> Tensor:
    """Attention of ``count`` groups of heads one after the other; the first waits for keys that arrive."""
    out = torch.empty_like(q)
    for ours, theirs in size.slices(count):
        part = out[:, :, ours]
        found = of_heads(q[:, :, ours], k[:, :, theirs], v[:, :, theirs], out=part, **waiting)
        if found is not part:
            part.copy_(found)
        waiting = {}
    return out


class _Traced:
    """:func:`attend` as the operator's layer: its call is in numbers, as a graph keeps no objects."""

    def __init__(self) -> None:
        self.number = register(self)

    @staticmethod
    def call(pattern: Pattern, layout: TokenLayout, kernel: str) -> Numbers:
        """What :meth:`sparse` reads again."""
        remap, rows, held = pattern.remap, layout.q_rows, layout.kv_frames
        shape = [pattern.frames, pattern.window, pattern.n_first, pattern.keyframe_interval, pattern.offset]
        around = [layout.kv_before, layout.kv_after, layout.q_before, layout.q_after, layout.pad, layout.q_offset]
        integers = [*shape, int(pattern.expand_window), layout.grid.frames, layout.grid.patches, *around]
        integers += [-1 if rows is None else rows, -1 if remap is None else remap.length]
        integers += [int(held is not None), *(held or ())]
        return Numbers(integers, [pattern.anchor_boost, *(() if remap is None else remap.axis.frequencies)], kernel)

    def sparse(
        self, call: Numbers, q: Tensor, k: Tensor, v: Tensor, text: tuple[Tensor, Tensor] | None, scale: float | None
    ) -> Tensor:
        """See :meth:`lvsa_core.call.SparseLayer.sparse`."""
        frames, window, n_first, interval, offset, expand, count, patches, *rest = call.integers
        kv_before, kv_after, q_before, q_after, pad, q_offset, rows, length, listed, *held = rest
        boost, *frequencies = call.fractions
        remap = None if length < 0 else Remap(length, TemporalAxis(tuple(frequencies)))
        pattern = Pattern(frames, window, n_first, interval, offset, bool(expand), boost, remap)
        around, of_rank = (kv_before, kv_after, q_before, q_after), (None if rows < 0 else rows)
        kv_frames = tuple(held) if listed else None
        layout = TokenLayout(FrameGrid(count, patches), *around, pad, q_offset, of_rank, kv_frames)
        return attend(q, k, v, pattern, layout, scale=scale, kernel=call.kernel)


_TRACED = _Traced()

"""``attend``: LVSA's attention of one layer, by the fastest kernel there is."""

from __future__ import annotations

import torch
from torch import Tensor

from lvsa_core.checks import check_call
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels import Kernel, select
from lvsa_core.kernels.prefix_window import Arriving
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
        kernel: ``auto``, a family (``flash``, ``flashinfer``, ``sdpa``) or the name of a kernel in
            :mod:`lvsa_core.kernels`. Its first use on a device, dtype and head size runs a self-test.

    Returns:
        [B, Sq, H, D] in the dtype of ``q``; rows of padding are zero. Besides inputs and output it needs one permuted
        copy of K and V, at most one of Q, and the log-sum-exps.

    Raises:
        ValueError: if shapes, heads, layout or scale do not fit.
        KernelUnavailable: if no kernel runs on this device, dtype and head size.

    Source: arXiv 2605.31057; joining by log-sum-exp as in FlashAttention's split keys.
    """
    scale = check_call(q, k, v, pattern, layout, scale)
    if not q.numel():
        return torch.empty_like(q)
    return run(select(kernel, q.device, q.dtype, q.shape[3]).kernel, q, k, v, pattern, layout, scale)


def run(
    kernel: Kernel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layout: TokenLayout,
    scale: float,
    arriving: Arriving | None = None,
) -> Tensor:
    """Run one kernel on arguments that have been checked; see :func:`attend`.

    Args:
        arriving: what of the keys is not there yet; only for kernels that are :class:`PrefixWindow`.
    """
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]  # some kernels run on the current device
        more = {} if arriving is None else {"arriving": arriving}
        out = kernel.attend(q, k, v, pattern, layout, scale, **more)
    if layout.video_rows > layout.real_rows:
        out[:, layout.q_before + layout.real_rows : layout.q_before + layout.video_rows] = 0
    return out

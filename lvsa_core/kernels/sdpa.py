"""Kernels that come with the framework: PyTorch's own, and Ascend's through torch_npu."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core.cascade import cascade, query_frames
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels.cuda import HALF, capability, unfit
from lvsa_core.kernels.prefix_window import GatheredWindow, PrefixWindow
from lvsa_core.pattern import Pattern

_aten = torch.ops.aten


class SdpaKernel(PrefixWindow):
    """PyTorch's scaled-dot-product kernels on CPU and CUDA, by the operators that also return the log-sum-exp."""

    name = "sdpa"
    family = "sdpa"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """See :meth:`PrefixWindow.available`."""
        if device.type == "cpu":
            return None
        # Before Ampere PyTorch uses its memory-efficient kernel, which does not take bfloat16 there.
        needs = (8, 0) if dtype == torch.bfloat16 else (5, 0)
        return unfit(device, dtype, head_size, dtypes=(*HALF, torch.float32), needs=needs)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`PrefixWindow.attention`."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if q.device.type == "cpu":
            out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
            _mark_rows_without_keys(q, k, scale, lse)
        elif q.dtype == torch.float32 or capability(q.device) < (8, 0):
            if q.shape[1] != k.shape[1]:
                k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
            out, lse, *_ = _aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)
            lse = lse[..., : q.shape[2]]  # the kernel pads its rows
        else:
            out, lse, *_ = _aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
        return out.transpose(1, 2), lse


def _mark_rows_without_keys(q: Tensor, k: Tensor, scale: float, lse: Tensor) -> None:
    """Make the log-sum-exp minus infinity where all scores of a row are, in place; PyTorch's CPU kernel says 0 there.

    Only rows that it gives 0, which is next to none, are looked at.

    Args:
        q: [N, H, Sq, D]. k: [N, Hkv, Sk, D]. lse: [N, H, Sq].
    """
    found = lse == 0
    if not found.any():
        return
    group = q.shape[1] // k.shape[1]
    for entry, head in found.any(-1).nonzero().tolist():
        rows = found[entry, head].nonzero()[:, 0]
        scores = q[entry, head, rows].to(lse.dtype) @ k[entry, head // group].to(lse.dtype).T * scale
        lse[entry, head, rows[scores.amax(-1) == -torch.inf]] = -torch.inf


class AscendKernel(GatheredWindow):
    """Ascend's fused attention, whose softmax statistics give the log-sum-exp. Not yet tried on a device.

    Source: torch_npu, npu_fusion_attention.
    """

    name = "sdpa-ascend"
    family = "sdpa"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """See :meth:`PrefixWindow.available`."""
        if device.type != "npu":
            return f"it is for Ascend, the device is {device.type}"
        if importlib.util.find_spec("torch_npu") is None:
            return "torch_npu is not installed"
        if dtype not in (torch.float16, torch.bfloat16):
            return f"it takes float16 and bfloat16, not {dtype}"
        return None

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`PrefixWindow.attention`."""
        import torch_npu

        q, k, v = (x.contiguous() for x in (q, k, v))
        out, largest, total, *_ = torch_npu.npu_fusion_attention(
            q, k, v, head_num=q.shape[2], input_layout="BSND", scale=scale, keep_prob=1.0
        )
        # For each row the largest score, and the sum of exp(score - largest); both [N, H, Sq, 8], with the same number
        # eight times.
        return out, (largest + total.log())[..., 0]


class ConcatenatedKernel:
    """PyTorch's attention, frame by frame on concatenated keys: slower, but on any device and without log-sum-exp."""

    name = "sdpa-concatenated"
    family = "sdpa"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """See :meth:`PrefixWindow.available`."""
        return None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
        """See :meth:`PrefixWindow.attend`."""
        grid, calls = layout.grid, cascade(pattern, layout)
        before = layout.kv_before
        others = [(x[:, :before], x[:, layout.kv_tokens - layout.kv_after :]) for x in (k, v)]
        every = layout.held_frames
        shape = (-1, len(every), grid.patches, *k.shape[2:])
        frames = [
            dict(zip(every, x[:, before : before + layout.kv_rows].view(shape).unbind(1), strict=True)) for x in (k, v)
        ]
        out = torch.empty_like(q)

        def write(start: int, end: int, attended: tuple[int, ...]) -> None:
            keys, values = (
                torch.cat([*other, *(x[frame] for frame in attended)], 1)
                for other, x in zip(others, frames, strict=True)
            )
            out[:, start:end] = _plain(q[:, start:end], keys, values, scale)

        if layout.q_before:
            write(0, layout.q_before, every)
        if layout.q_after:
            write(layout.q_tokens - layout.q_after, layout.q_tokens, every)
        first, end = layout.q_offset, layout.q_offset + layout.real_rows
        for frame in query_frames(layout):
            start = max(frame * grid.patches, first)
            stop = min((frame + 1) * grid.patches, end)
            attended = pattern.attended(frame) if calls.remaining else every
            write(layout.q_before + start - first, layout.q_before + stop - first, attended)
        return out


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Dense attention, [B, Sq, H, D]."""
    if q.shape[2] != k.shape[2]:
        k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)

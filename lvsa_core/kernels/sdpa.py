"""Dense attention with its log-sum-exp from PyTorch's own kernels."""

from __future__ import annotations

import torch
from torch import Tensor

_aten = torch.ops.aten


class SdpaKernel:
    """PyTorch's scaled-dot-product kernels, called where they also return the log-sum-exp."""

    name = "sdpa"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """None if the kernel runs there, else the reason it does not."""
        if device.type == "cpu":
            return None
        if device.type != "cuda":
            return f"PyTorch's attention gives no log-sum-exp on {device.type}"
        if dtype == torch.float64:
            return "PyTorch's attention has no float64 kernel on cuda"
        if head_size % 8 or head_size > 256:
            return f"head size must be a multiple of 8 up to 256 on cuda, got {head_size}"
        if dtype != torch.float32 and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0):
            return "PyTorch's flash attention needs compute capability 8.0"
        return None

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Softmax attention of each batch entry.

        Args:
            q: [N, Sq, H, D]. k, v: [N, Sk, Hkv, D] with Sk >= 1; entries may overlap in memory.
            scale: multiplies the scores.

        Returns:
            Output [N, Sq, H, D], and the natural log-sum-exp of the scores [N, H, Sq], float32 or wider.
        """
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if q.device.type == "cpu":
            out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
        elif q.dtype == torch.float32:
            if q.shape[1] != k.shape[1]:
                k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
            out, lse, *_ = _aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)
            lse = lse[..., : q.shape[2]]  # the kernel pads its rows
        else:
            out, lse, *_ = _aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
        return out.transpose(1, 2), lse

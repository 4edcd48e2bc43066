"""Dense attention by every kernel that there is, which LVSA is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core.kernels import KERNELS, KernelUnavailable

#: Attention of q [B, S, H, D] to k and v [B, Sk, Hkv, D], with scores multiplied by a scale; [B, S, H, D].
Dense = Callable[[Tensor, Tensor, Tensor, float], Tensor]

#: Builds of FlashAttention-3, each of which the engine may have as its dense attention.
FLASH3 = ("FlashAttention3", "FlashAttention3-vllm")


def pytorch(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """By the kernel that PyTorch chooses."""
    grouped = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped).transpose(1, 2)


def pytorch_backend(backend: SDPBackend) -> Dense:
    """By one of PyTorch's kernels."""

    def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        with sdpa_kernel(backend):
            return pytorch(q, k, v, scale)

    return dense


def flash3(device: torch.device, dtype: torch.dtype, head_size: int) -> Any:
    """The first FlashAttention-3 that is there.

    Raises:
        KernelUnavailable: if none is, with the reasons.
    """
    reasons = {name: KERNELS[name].available(device, dtype, head_size) for name in FLASH3}
    for name, reason in reasons.items():
        if reason is None:
            return KERNELS[name]
    raise KernelUnavailable("; ".join(dict.fromkeys(map(str, reasons.values()))))


def flash_attention_3(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """By :func:`flash3`."""
    out: Tensor = flash3(q.device, q.dtype, q.shape[3]).attention(q, k, v, scale)[0]
    return out


def flashinfer(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """By FlashInfer, for a batch of one.

    Raises:
        KernelUnavailable: if it does not run there, with the reason.
    """
    if reason := KERNELS["FlashInfer"].available(q.device, q.dtype, q.shape[3]):
        raise KernelUnavailable(reason)
    from flashinfer import single_prefill_with_kv_cache

    out: Tensor = single_prefill_with_kv_cache(q[0], k[0], v[0], causal=False, kv_layout="NHD", sm_scale=scale)[None]
    return out


DENSE: dict[str, Dense] = {
    "FlashAttention-3": flash_attention_3,
    "SDPA cuDNN": pytorch_backend(SDPBackend.CUDNN_ATTENTION),
    "SDPA flash": pytorch_backend(SDPBackend.FLASH_ATTENTION),
    "FlashInfer": flashinfer,
}

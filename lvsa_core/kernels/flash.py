"""FlashAttention-3 and -2, which read the overlapping windows in place, and cuDNN's flash attention."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lvsa_core.kernels.cuda import HALF, capability, unfit
from lvsa_core.kernels.prefix_window import GatheredWindow, VarlenWindow
from lvsa_core.tables import Tables

#: The arguments of FlashAttention-3's ``fwd`` that are not given and may not be None: dense attention in one pass over
#: the keys (each split would need a float32 copy of the output).
_FA3_ARGUMENTS = {
    "is_causal": False, "window_size_left": -1, "window_size_right": -1, "attention_chunk": 0, "softcap": 0.0,
    "is_rotary_interleaved": False, "num_splits": 1, "sm_margin": 0, "cp_world_size": 1, "cp_rank": 0,
}  # fmt: skip


class FlashAttention3(VarlenWindow):
    """FlashAttention-3, the fastest on Hopper; from the package fa3-fwd or from vLLM's own build.

    Both hold code for Ampere and Ada too. On other cards it must not be tried: where a launch fails, the library ends
    the process.

    Args:
        module: what to import so that PyTorch knows the operator.
        operators: namespace of the operator ``fwd``.
        dtypes: those that it was built for.

    Source: FlashAttention's hopper/flash_api.cpp; a group has ``seqused_k`` keys, the first one at ``cu_seqlens_k``.
    """

    family = "flash"

    def __init__(self, name: str, module: str, operators: str, dtypes: tuple[torch.dtype, ...]) -> None:
        self.name, self.module, self.operators, self.dtypes = name, module, operators, dtypes
        self._operator: Any = None  # as PyTorch has it, and the names of its arguments
        self._names: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """An operator is found anew in another process."""
        return {**self.__dict__, "_operator": None}

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """See :meth:`PrefixWindow.available`."""
        if reason := unfit(device, dtype, head_size, dtypes=self.dtypes, needs=(8, 0)):
            return reason
        if capability(device)[0] > 9:
            return "it holds no code for cards after Hopper"
        return _import_problem(self.module)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`PrefixWindow.attention`."""
        return self._forward(q=q, k=k, v=v, softmax_scale=scale)

    def attention_into(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See :meth:`PrefixWindow.attention_into`; without a copy."""
        return self._forward(q=q, k=k, v=v, out=out, softmax_scale=scale)[1]

    def varlen(self, q: Tensor, k: Tensor, v: Tensor, groups: Tables, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`VarlenWindow.varlen`."""
        return self._forward(
            q=q, k=k, v=v, cu_seqlens_q=groups.q_starts, cu_seqlens_k=groups.k_starts, seqused_k=groups.k_rows,
            max_seqlen_q=groups.max_rows[0], max_seqlen_k=groups.max_rows[1], softmax_scale=scale,
        )  # fmt: skip

    def _forward(self, **given: object) -> tuple[Tensor, Tensor]:
        operator = getattr(torch.ops, self.operators).fwd.default
        if operator is not self._operator:  # reading a schema takes the host as long as a launch
            self._operator, self._names = operator, tuple(x.name for x in operator._schema.arguments)
        # Builds have different arguments, and vLLM's build gives none of them a default.
        out, lse, *_ = operator(*(given.get(name, _FA3_ARGUMENTS.get(name)) for name in self._names))
        return out, lse


class FlashAttention2(VarlenWindow):
    """FlashAttention-2 in PyTorch's own build, for Ampere and later.

    Source: aten/src/ATen/native/transformers/cuda/attention.cu; torch.nn.attention.varlen uses it too.
    """

    name = "FlashAttention2"
    family = "flash"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """See :meth:`PrefixWindow.available`."""
        return unfit(device, dtype, head_size, dtypes=HALF, needs=(8, 0))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`PrefixWindow.attention`."""
        out, lse, *_ = self._forward(q, k, v, None, None, q.shape[1], k.shape[1], scale=scale)
        return out, lse

    def varlen(self, q: Tensor, k: Tensor, v: Tensor, groups: Tables, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`VarlenWindow.varlen`."""
        out, lse, *_ = self._forward(
            q, k, v, groups.q_starts, groups.k_starts, *groups.max_rows, scale=scale, seqused_k=groups.k_rows
        )
        return out, lse

    @staticmethod
    def _forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        dropout, causal, debug_mask = 0.0, False, False
        result: tuple[Tensor, ...] = torch.ops.aten._flash_attention_forward(
            *args, dropout, causal, debug_mask, **kwargs
        )
        return result


class FlashAttention4(VarlenWindow):
    """FlashAttention-4, written in CuTe for the Blackwell of data centers; vLLM's own build. Not yet tried on a device.

    It compiles itself at its first calls, once for each head size, dtype and kind of call.

    Source: vllm/vllm_flash_attn/cute/interface.py; groups of keys as in FlashAttention-3.
    """

    name = "FlashAttention4"
    family = "flash"
    module = "vllm.vllm_flash_attn.cute.interface"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """See :meth:`PrefixWindow.available`; which head sizes it takes, it says in its self-test."""
        if reason := unfit(device, dtype, head_size, dtypes=HALF, needs=(10, 0)):
            return reason
        if capability(device)[0] not in (10, 11):
            return "it is for compute capability 10 and 11"
        return _import_problem(self.module)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`PrefixWindow.attention`."""
        out, lse = importlib.import_module(self.module).flash_attn_func(q, k, v, softmax_scale=scale, return_lse=True)
        return out, lse

    def varlen(self, q: Tensor, k: Tensor, v: Tensor, groups: Tables, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`VarlenWindow.varlen`."""
        out, lse = importlib.import_module(self.module).flash_attn_varlen_func(
            q, k, v, cu_seqlens_q=groups.q_starts, cu_seqlens_k=groups.k_starts, seqused_k=groups.k_rows,
            max_seqlen_q=groups.max_rows[0], max_seqlen_k=groups.max_rows[1], softmax_scale=scale, return_lse=True,
        )  # fmt: skip
        return out, lse


class GatheredFlashAttention4(GatheredWindow, FlashAttention4):
    """FlashAttention-4 with copied windows, for builds that cannot read them in place."""

    name = "FlashAttention4-gathered"


class CudnnAttention(GatheredWindow):
    """cuDNN's flash attention in PyTorch: for Blackwell, and for Hopper where FlashAttention-3 is missing.

    It compiles a kernel for every shape, so it takes the gathered windows, which have few different shapes.
    """

    name = "cuDNN"
    family = "flash"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """See :meth:`PrefixWindow.available`."""
        if reason := unfit(device, dtype, head_size, dtypes=HALF, needs=(9, 0)):
            return reason
        return None if torch._C._has_cudnn else "this PyTorch is built without cuDNN"

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """See :meth:`PrefixWindow.attention`."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, scale=scale)
        return out.transpose(1, 2), lse.view(lse.shape[:3])  # some versions: a fourth dimension of 1


class GatheredFlashAttention3(GatheredWindow, FlashAttention3):
    """FlashAttention-3 with copied windows, for builds that cannot read them in place."""


class GatheredFlashAttention2(GatheredWindow, FlashAttention2):
    """FlashAttention-2 with copied windows, for builds that cannot read them in place."""

    name = "FlashAttention2-gathered"


@lru_cache(maxsize=8)
def _import_problem(module: str) -> str | None:
    """Why a module cannot be imported; None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a compiled part that does not fit this PyTorch or CUDA raises errors of any kind
        return f"{module} cannot be imported: {str(error).strip().partition(chr(10))[0]}"
    return None

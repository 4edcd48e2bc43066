"""Which kernels there are, and which one is used for a device, dtype and head size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from lvsa_core.grid import TokenLayout
from lvsa_core.kernels import merge
from lvsa_core.kernels.flash import (
    CudnnAttention,
    FlashAttention2,
    FlashAttention3,
    GatheredFlashAttention2,
    GatheredFlashAttention3,
)
from lvsa_core.kernels.flashinfer import FlashInferKernel
from lvsa_core.kernels.sdpa import AscendKernel, ConcatenatedKernel, SdpaKernel
from lvsa_core.kernels.selftest import self_test
from lvsa_core.pattern import Pattern


class KernelUnavailable(RuntimeError):
    """None of the kernels asked for can run; the message says why and what to do."""


class Kernel(Protocol):
    """A way to compute the pattern.

    Attributes:
        name: its name in logs and benchmarks. family: the name by which users choose it, alone or with others.
    """

    name: str
    family: str

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """None if the kernel can run there, else the reason why not."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
        """Sparse attention of one layer; see :func:`lvsa_core.attend`. Rows of padding hold anything."""


_FA3 = ("fa3_fwd_interface", "fa3_fwd", (torch.bfloat16,))
_FA3_VLLM = ("vllm.vllm_flash_attn", "_vllm_fa3_C", (torch.bfloat16, torch.float16))

#: All kernels by name, the fastest first: ``auto`` tries them in this order.
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        FlashAttention3("FlashAttention3", *_FA3),
        FlashAttention3("FlashAttention3-vllm", *_FA3_VLLM),
        GatheredFlashAttention3("FlashAttention3-gathered", *_FA3),
        GatheredFlashAttention3("FlashAttention3-vllm-gathered", *_FA3_VLLM),
        CudnnAttention(),
        FlashAttention2(),
        GatheredFlashAttention2(),
        FlashInferKernel("FlashInfer"),
        FlashInferKernel("FlashInfer-blocks", dense_prefix=False),
        FlashInferKernel("FlashInfer-prefix", dense_prefix=True),
        SdpaKernel(),
        AscendKernel(),
        ConcatenatedKernel(),
    )
}


@dataclass(frozen=True)
class Selection:
    """A kernel that passed its self-test, and the faster kernels that were passed over, each with the reason."""

    kernel: Kernel
    passed_over: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.name

    def __str__(self) -> str:
        if not self.passed_over:
            return self.kernel.name
        return f"{self.kernel.name} (passed over {_sentence(self.passed_over)})"


@lru_cache(maxsize=64)
def select(name: str, device: torch.device, dtype: torch.dtype, head_size: int) -> Selection:
    """The fastest kernel that is available and passes its self-test; the test happens once in each process.

    Args:
        name: ``auto``, a family (``flash``, ``flashinfer``, ``sdpa``), or the name of one kernel in :data:`KERNELS`.

    Raises:
        KernelUnavailable: with the reason of every kernel tried.
    """
    candidates = [kernel for kernel in KERNELS.values() if name in ("auto", kernel.family)]
    candidates = candidates or [kernel for kernel in KERNELS.values() if name == kernel.name]
    if not candidates:
        choices = ", ".join(dict.fromkeys(kernel.family for kernel in KERNELS.values()))
        raise KernelUnavailable(f"there is no attention kernel {name!r}: choose one of auto, {choices}")
    reasons: list[tuple[str, str]] = []
    for kernel in candidates:
        reason = kernel.available(device, dtype, head_size) or self_test(kernel, device, dtype, head_size)
        if reason is None:
            slow_merge = merge.passed_over(device)
            if slow_merge:
                reasons.append(("Triton's merge", slow_merge))
            return Selection(kernel, tuple(reasons))
        reasons.append((kernel.name, reason))
    wanted = "no attention kernel" if name == "auto" else f"attention kernel {name!r} does not run"
    remedy = "use a supported device" if name == "auto" else "choose auto"
    raise KernelUnavailable(
        f"{wanted} for {dtype} with head size {head_size} on {device} ({_sentence(reasons)}); "
        f"{remedy} or switch LVSA off"
    )


def _sentence(reasons: Iterable[tuple[str, str]]) -> str:
    """Kernels with their reasons; kernels that share a reason stand together, a complete family under its own name."""
    sharing: dict[str, list[str]] = {}
    for name, reason in reasons:
        sharing.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(_families_first(names))}: {reason}" for reason, names in sharing.items())


def _families_first(names: list[str]) -> list[str]:
    """Names of kernels; a family of several replaces its members if all of them are among the names."""
    members: dict[str, set[str]] = {}
    for kernel in KERNELS.values():
        members.setdefault(kernel.family, set()).add(kernel.name)
    whole = [family for family, kernels in members.items() if len(kernels) > 1 and kernels <= set(names)]
    return [*whole, *(name for name in names if not any(name in members[family] for family in whole))]


def release() -> None:
    """Free what kernels keep on devices between calls, such as workspaces; the next call allocates it again."""
    for kernel in KERNELS.values():
        if isinstance(kernel, FlashInferKernel):
            kernel.release()

"""Which kernels there are, and which one runs for a device, dtype and head size."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from lvsa_core.kernels.sdpa import SdpaKernel


class KernelUnavailable(RuntimeError):
    """A kernel that was asked for by name cannot run; the message says why and what to do."""


class Kernel(Protocol):
    """A dense attention that also returns its log-sum-exp; see :class:`lvsa_core.kernels.sdpa.SdpaKernel`."""

    name: str

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None: ...

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]: ...


#: Fastest first: the order in which ``auto`` tries them.
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (SdpaKernel(),)}


@lru_cache(maxsize=64)
def select(name: str, device: torch.device, dtype: torch.dtype, head_size: int) -> Kernel:
    """The kernel called ``name``, or for ``auto`` the first that runs there.

    Raises:
        KernelUnavailable: with the reason of every kernel tried.
    """
    if name != "auto" and name not in KERNELS:
        raise KernelUnavailable(
            f"attention kernel {name!r} is not part of this version: choose one of auto, {', '.join(KERNELS)}"
        )
    reasons = []
    for kernel in KERNELS.values() if name == "auto" else [KERNELS[name]]:
        reason = kernel.available(device, dtype, head_size)
        if reason is None:
            return kernel
        reasons.append(f"{kernel.name}: {reason}")
    raise KernelUnavailable(
        f"no attention kernel for {dtype} with head size {head_size} on {device} ({'; '.join(reasons)}); "
        f"use a supported device or switch LVSA off"
    )

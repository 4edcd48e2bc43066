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
from lvsa_core.kernels.cuda import unusable
from lvsa_core.kernels.flash import (
    CudnnAttention,
    FlashAttention2,
    FlashAttention3,
    FlashAttention4,
    GatheredFlashAttention2,
    GatheredFlashAttention3,
    GatheredFlashAttention4,
)
from lvsa_core.kernels.flashinfer import FlashInferKernel
from lvsa_core.kernels.prefix_window import PrefixWindow
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
        FlashAttention4(),
        GatheredFlashAttention4(),
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


#: What broke a device in this process, once something has.
_broken: dict[torch.device, str] = {}


def candidates(choice: str) -> list[Kernel]:
    """The kernels that a choice allows, the fastest first.

    Args:
        choice: ``auto``, a family (``flash``, ``flashinfer``, ``sdpa``), or the name of one kernel in :data:`KERNELS`;
            after a comma and a minus what is left out, a family or a kernel: ``auto,-FlashAttention3,-flashinfer``.

    Raises:
        KernelUnavailable: if there is no kernel of a name.
    """
    wanted, *left_out = (name.strip() for name in choice.split(","))
    families = list(dict.fromkeys(kernel.family for kernel in KERNELS.values()))
    for name, known in ((wanted, ["auto", *families]), *((name.removeprefix("-"), families) for name in left_out)):
        if name not in (*known, *KERNELS):
            raise KernelUnavailable(f"there is no attention kernel {name!r}: choose one of {', '.join(known)}")
    out = {name.removeprefix("-") for name in left_out}
    found = [kernel for kernel in KERNELS.values() if wanted in ("auto", kernel.family)]
    found = found or [KERNELS[wanted]]
    return [kernel for kernel in found if not {kernel.name, kernel.family} & out]


@lru_cache(maxsize=64)
def select(choice: str, device: torch.device, dtype: torch.dtype, head_size: int, plain: bool = True) -> Selection:
    """The fastest kernel that is available and passes its self-test; the test happens once in each process.

    Args:
        choice: see :func:`candidates`.
        plain: whether anchors are seen where they are and are not boosted; other patterns need the log-sum-exps of
            prefix + window.

    Raises:
        KernelUnavailable: with the reason of every kernel tried; or if one, or the merge that all of them share, has
            broken the device for this process.
    """
    if not plain:
        usual = select(choice, device, dtype, head_size)
        if isinstance(usual.kernel, PrefixWindow):
            return usual  # it has been tested
    found = candidates(choice)
    slow_merge = None
    if device not in _broken and (error := unusable(device)):
        _broken[device] = f"{device} was out of use before any attention kernel ran ({error}): start the process again"
    elif device not in _broken and (slow_merge := merge.passed_over(device)) and unusable(device):
        _broken[device] = (
            f"Triton has put {device} out of use for this process ({slow_merge}), before any attention kernel ran: "
            f"install the version of Triton that this PyTorch needs, or uninstall it, and start again"
        )
    if device in _broken:
        raise KernelUnavailable(_broken[device])
    reasons: list[tuple[str, str]] = []
    for kernel in found:
        reason = kernel.available(device, dtype, head_size)
        if reason is None and not (plain or isinstance(kernel, PrefixWindow)):
            reason = "it knows neither anchor_boost nor anchor_positions"
        reason = reason or self_test(kernel, device, dtype, head_size)
        if reason is None:
            if slow_merge:
                reasons.append(("Triton's merge", slow_merge))
            return Selection(kernel, tuple(reasons))
        if unusable(device):
            _broken[device] = (
                f"the attention kernel {kernel.name} has put {device} out of use for this process ({reason}): leave it "
                f"out with LVSA_SKIP_KERNELS={kernel.name} (in Python kernel='{choice},-{kernel.name}'), or choose "
                f"another with LVSA_BACKEND, and start again"
            )
            raise KernelUnavailable(_broken[device])
        reasons.append((kernel.name, reason))
    wanted = "no attention kernel" if choice.startswith("auto") else f"attention kernel {choice!r} does not run"
    remedy = "use a supported device" if choice.startswith("auto") else "choose auto"
    tried = _sentence(reasons) or "all are left out"
    raise KernelUnavailable(
        f"{wanted} for {dtype} with head size {head_size} on {device} ({tried}); {remedy} or switch LVSA off"
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

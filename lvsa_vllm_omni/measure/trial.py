"""Whether a kernel works on a device, tried in a process of its own, where one that crashes takes nothing with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from lvsa_core.kernels import Kernel
from lvsa_core.kernels.cuda import unusable
from lvsa_core.kernels.selftest import self_test
from lvsa_vllm_omni.measure.apart import Answer, apart

#: Seconds for a kernel, of which some compile themselves first.
PATIENCE = 600.0


class Trial(NamedTuple):
    """What came of a kernel.

    Attributes:
        kernel: its name. outcome: right, wrong, crashed or not available. reason: why it is not right, else empty.
    """

    kernel: str
    outcome: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kernel}: {self.outcome}{f' ({self.reason})' if self.reason else ''}"


def trial(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, head_size: int, patience: float = PATIENCE
) -> Trial:
    """Run a kernel's self-test in a process of its own.

    Crashed is a kernel that ends its process, leaves the device unusable in it, or does not come to an end.

    Args:
        patience: seconds to wait for it.
    """
    if reason := kernel.available(device, dtype, head_size):
        return Trial(kernel.name, "not available", reason)
    work = partial(_self_test, kernel, device, dtype, head_size)
    ((name, result),) = apart(work, [kernel.name], patience, time.monotonic() + patience + 1)
    return Trial(name, result["result"], result.get("reason", ""))


def _self_test(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, head_size: int, jobs: Sequence[str], answer: Answer
) -> None:
    """The work of that process."""
    wrong = self_test(kernel, device, dtype, head_size)
    result = {"result": "wrong", "reason": wrong} if wrong else {"result": "right"}
    if unusable(device):
        result = {"result": "crashed", "reason": f"{wrong}; {device} is unusable after it"}
    answer(jobs[0], result)

"""The seconds of each denoising step, and the peak memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from typing import Any

import torch


class Profile:
    """Seconds of each denoising step; waits for the device at its end."""

    def __init__(self, pipe: Any, device: torch.device) -> None:
        self.steps: list[float] = []
        self._device, self._last = device, 0.0
        self._advance = pipe.scheduler.step
        pipe.scheduler.step = self._step  # the one place that every pipeline calls once a step
        pipe.transformer.register_forward_pre_hook(self._begin)

    def _begin(self, *_: Any) -> None:
        self._last = self._last or time.perf_counter()

    def _step(self, *args: Any, **options: Any) -> Any:
        result = self._advance(*args, **options)
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.steps.append(now - self._last)
        self._last = now
        return result

    def __str__(self) -> str:
        lines = [f"step {number:3}  {seconds:9.3f} s" for number, seconds in enumerate(self.steps)]
        return "\n".join([*lines, f"median    {statistics.median(self.steps):9.3f} s"])


def peak_memory_mib(device: torch.device) -> float | None:
    """What PyTorch held of the accelerator at most, None if it does not tell; or this process of the host's memory."""
    if device.type == "cpu":
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    for tells in (torch.accelerator, torch.get_device_module(device)):  # the former from PyTorch 2.9 on
        if hasattr(tells, "max_memory_allocated"):
            return round(tells.max_memory_allocated() / 2**20, 1)
    return None

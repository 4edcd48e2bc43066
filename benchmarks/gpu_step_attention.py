"""The attentions of a timed denoising step: the fastest dense kernel, LVSA's, and a clock around either."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_cases import Inputs
from gpu_kernels import DENSE, difference, first_line, right
from step_parts import Attention
from torch import Tensor

from lvsa_core import Pattern, TokenLayout, attend, plan
from lvsa_core.kernels import KernelUnavailable
from lvsa_vllm_omni.measure.timing import interleaved, medians, seconds

KERNELS = ("FlashAttention-3", "SDPA cuDNN", "SDPA flash")


def fastest_dense(
    layout: TokenLayout, heads: int, head_size: int, device: torch.device, noise: torch.Generator
) -> tuple[str, Attention, dict[str, float], dict[str, str]]:
    """The fastest dense kernel at a shape: name, function, seconds of all that are right, why the others are not."""
    inputs = Inputs(layout, heads, heads, head_size, device, noise)
    rows = [0, layout.q_tokens // 2, layout.q_tokens - 1]
    expected = inputs.exact(rows, Pattern(layout.grid.frames))
    calls: dict[str, Callable[[], Tensor]] = {}
    failed: dict[str, str] = {}
    for name in KERNELS:
        call = partial(DENSE[name], *inputs.tensors, inputs.scale)
        try:
            if right(found := difference(call()[0, rows], expected)):
                calls[name] = call
            else:
                failed[name] = f"wrong, off by {found}"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a library raises that does not fit the device
            failed[name] = first_line(error)
    if not calls:
        raise KernelUnavailable(f"no dense attention runs at this size: {failed}")
    once = sum(seconds(call, device) for call in calls.values())
    times = medians(interleaved(calls, device, max(2, min(10, int(1 / once))))[0])
    fastest = min(times, key=times.__getitem__)
    return fastest, partial(DENSE[fastest], scale=inputs.scale), times, failed


def lvsa(layout: TokenLayout, horizon: int, dense: Attention, step: int) -> Attention:
    """LVSA's attention at a denoising step: the dense function itself up to the training length."""
    pattern = plan(layout.grid.frames, reference_frames=horizon, step=step)
    return dense if pattern.is_dense else partial(attend, pattern=pattern, layout=layout)


class Watched:
    """An attention with the clock beside it, which does not make the host wait."""

    def __init__(self, attention: Attention, device: torch.device) -> None:
        self.attention, self.device = attention, device
        self.spans: list[tuple[Any, Any]] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        begin = self._mark()
        out = self.attention(q, k, v)
        self.spans.append((begin, self._mark()))
        return out

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """Of all calls; the device must have finished them."""
        if self.device.type != "cuda":
            return sum(end - begin for begin, end in self.spans)
        return sum(begin.elapsed_time(end) for begin, end in self.spans) / 1e3

"""Timing and memory of attention calls: what the benchmarks and ``lvsa bench`` measure with."""

from __future__ import annotations

import copy
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvsa_core import Pattern, TokenLayout
from lvsa_core.kernels import Kernel
from lvsa_core.kernels.prefix_window import PrefixWindow

#: Of a call of :class:`PrefixWindow`.
PARTS = ("copies", "prefix", "windows", "merge")


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Time of one call: the device's own clock on CUDA, the wall clock elsewhere."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize(device)
        return float(begin.elapsed_time(end)) / 1e3
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def host_seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Time of one call on a processor, which ``device`` does not add to."""
    start = time.thread_time()
    function()
    return time.thread_time() - start


def interleaved(
    sides: Mapping[str, Callable[[], Any]],
    device: torch.device,
    repeats: int,
    patience: float = 0.0,
    clock: Callable[[Callable[[], Any], torch.device], float] = seconds,
) -> tuple[dict[str, list[float]], bool]:
    """Times of several functions, run in turns after a warm-up, so that what disturbs one disturbs all.

    Each turn has an order of its own: a card that has just been busy for long runs slower, or faster, than before.

    Args:
        repeats: runs of each that count.
        patience: seconds to go on until enough runs had the processors for themselves (other programs got less than
            5 % of them), for calls on the CPU. 0: every run counts.
        clock: the time of one call.

    Returns:
        Seconds by name, and whether only undisturbed runs are among them.
    """
    every: dict[str, list[float]] = {name: [] for name in sides}
    quiet: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    end, order = time.perf_counter() + patience, random.Random(0)
    while min(map(len, quiet.values())) < repeats:
        if time.perf_counter() >= end and min(map(len, every.values())) >= repeats:
            return every, False
        for name in order.sample([*sides], len(sides)):
            others = _processor_seconds() - time.process_time()
            every[name].append(clock(sides[name], device))
            others = _processor_seconds() - time.process_time() - others
            if others < 0.05 * every[name][-1] * (os.cpu_count() or 1) + 0.02:  # the machine counts in 0.01 s
                quiet[name].append(every[name][-1])
    return quiet, True


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each list."""
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(function: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that PyTorch held at once during the call, beyond what it held before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as trace:
        function()
    assert trace.profiler is not None and trace.profiler.kineto_results is not None
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())), default=0)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 8192, repeats: int = 10) -> float:
    """FLOP per second of a square matrix product of random numbers: the ceiling of attention on this device."""
    a, b = (torch.randn(size, size, dtype=torch.float32, device=device).to(dtype) for _ in range(2))
    times, _ = interleaved({"product": lambda: a @ b}, device, repeats)
    return 2 * size**3 / statistics.median(times["product"])


def copy_rate(device: torch.device, nbytes: int = 2**32, repeats: int = 10) -> float:
    """Bytes per second, read and written, of a copy within the device's memory."""
    source = torch.empty(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times, _ = interleaved({"copy": lambda: target.copy_(source)}, device, repeats)
    return 2 * nbytes / statistics.median(times["copy"])


def poison(device: torch.device, nbytes: int) -> None:
    """Fill free memory with NaN, so that a kernel that leaves part of its output unwritten shows it."""
    torch.full((max(1, nbytes // 4),), float("nan"), dtype=torch.float32, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def normal(*shape: int, dtype: torch.dtype, device: torch.device, noise: torch.Generator | None = None) -> Tensor:
    """Normal noise, drawn in float32."""
    return torch.randn(*shape, generator=noise, dtype=torch.float32, device=device).to(dtype)


def parts_of(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, repeats: int
) -> dict[str, float] | None:
    """Median seconds of copies, prefix, windows and merge of a call; None for kernels that are not made of these parts.

    A copy of the kernel runs, whose parts wait for the device, so that the whole takes longer.
    """
    if not isinstance(kernel, PrefixWindow):
        return None
    spent = [_watched(kernel, q, k, v, pattern, layout) for _ in range(repeats)]
    return {part: statistics.median(one[part] for one in spent) for part in PARTS}


def _watched(
    kernel: PrefixWindow, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout
) -> dict[str, float]:
    """Seconds of the parts of one call."""
    watched, spent = copy.copy(kernel), dict.fromkeys(PARTS, 0.0)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result: list[Any] = []
            # The first attention of a call is the prefix, all others are windows.
            name = "windows" if part == "prefix" and spent["prefix"] else part
            spent[name] += seconds(lambda: result.append(function(*arguments)), q.device)
            return result[0]

        return call

    steps = {"prefix_first": "copies", "attention": "prefix", "varlen": "windows", "merge": "merge"}
    for step, part in steps.items():
        if hasattr(kernel, step):
            setattr(watched, step, timed(part, getattr(kernel, step)))
    watched.attend(q, k, v, pattern, layout, q.shape[3] ** -0.5)
    return spent


def _processor_seconds() -> float:
    """What all programs of this machine have used of its processors since it started; 0 where it cannot be told."""
    if not Path("/proc/stat").exists():
        return 0.0
    user, nice, system, _idle, _wait, interrupts, soft, stolen, *_ = Path("/proc/stat").read_text().split()[1:]
    ticks = sum(map(int, (user, nice, system, interrupts, soft, stolen)))
    return ticks / os.sysconf("SC_CLK_TCK")

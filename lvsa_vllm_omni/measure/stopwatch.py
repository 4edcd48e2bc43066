"""Where the time of an attention call goes: copies, prefix, windows, merge."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from lvsa_core.kernels import Kernel, prefix_window
from lvsa_core.kernels.merge import merge_
from lvsa_vllm_omni.measure.timing import seconds

PARTS = ("copies", "prefix", "windows", "merge")


@contextmanager
def stopwatch(kernel: prefix_window.PrefixWindow, device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds of the parts of each call in the block; waits for the device around each, so the total is longer."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: Callable[[], str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result: list[Any] = []
            name = part()
            spent[name] += seconds(lambda: result.append(function(*arguments)), device)
            return result[0]

        return call

    def prefix_or_window() -> str:
        return "windows" if spent["prefix"] else "prefix"  # the first call of each attend is the prefix

    varlen = getattr(kernel, "varlen", kernel.attention)
    with (
        patch.object(prefix_window, "prefix_first", timed(lambda: "copies", prefix_window.prefix_first)),
        patch.object(prefix_window, "merge_", timed(lambda: "merge", merge_)),
        patch.object(kernel, "attention", timed(prefix_or_window, kernel.attention)),
        patch.object(kernel, "varlen", timed(lambda: "windows", varlen), create=True),
    ):
        yield spent


def parts_of(
    kernel: Kernel, function: Callable[[], Tensor], device: torch.device, repeats: int
) -> dict[str, float] | None:
    """Median seconds of each part of a call, None for kernels that are not made of these parts."""
    if not isinstance(kernel, prefix_window.PrefixWindow):
        return None
    watched = []
    for _ in range(repeats):
        with stopwatch(kernel, device) as spent:
            function()
        watched.append(spent)
    return {part: statistics.median(spent[part] for spent in watched) for part in PARTS}

"""The attention of one layer: random inputs with the exact result, and times of kernels beside dense ones."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from models import Model
from report import milliseconds, table
from torch import Tensor

from lvsa_core import Pattern, TokenLayout, plan
from lvsa_core.attention import compute
from lvsa_core.cascade import cascade
from lvsa_core.kernels import Kernel, selftest
from lvsa_core.kernels.prefix_window import PrefixWindow, VarlenWindow
from lvsa_core.memory import GB, CallSize, HeadGroups
from lvsa_core.pattern import _pattern
from lvsa_core.reference import _turned
from lvsa_core.tables import _frame_indices, _tables, frame_indices, spans, tables
from lvsa_vllm_omni.measure.apart import first_line
from lvsa_vllm_omni.measure.cost import attended_pairs
from lvsa_vllm_omni.measure.dense import Dense
from lvsa_vllm_omni.measure.timing import interleaved, medians, normal, parts_of, peak_memory, seconds

LOUDNESS = 3.0
#: The name of a kernel's attention in two groups of heads, as where memory is short.
GROUPS = "two groups"
CPU = torch.device("cpu")


class Inputs:
    """Random queries, keys and values of a call, and the exact result of some rows.

    The queries are loud: a handful of keys decide about each output, so that a wrong one shows. As from Wan's blocks,
    queries and keys are contiguous, and values a part of a fused projection, with gaps between tokens.
    """

    def __init__(
        self, layout: TokenLayout, heads: int, kv_heads: int, size: int, dtype: torch.dtype, noise: torch.Generator
    ) -> None:
        self.layout, self.scale, self.device, self.dtype = layout, size**-0.5, noise.device, dtype
        shapes = [(layout.q_tokens, heads), (layout.kv_tokens, kv_heads), (layout.kv_tokens, 2 * kv_heads)]
        self.q, self.k, fused = (normal(1, *x, size, dtype=dtype, device=noise.device, noise=noise) for x in shapes)
        self.q *= LOUDNESS
        self.v = fused[:, :, kv_heads:]

    @classmethod
    def of(cls, model: Model, layout: TokenLayout, dtype: torch.dtype, noise: torch.Generator) -> Inputs:
        """The inputs of a layer of a model."""
        return cls(layout, model.shape.heads, model.shape.kv_heads, model.shape.head_size, dtype, noise)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    def right(self, difference: float | None) -> bool:
        """Whether a difference from the exact result may come from rounding."""
        return difference is not None and difference <= selftest.TOLERANCE[self.dtype]

    def exact(self, rows: list[int], pattern: Pattern) -> Tensor:
        """Some rows of the output in float32, [n, H, D]; for layouts without padding."""
        layout, group = self.layout, self.q.shape[2] // self.k.shape[2]
        first, patches, tokens = layout.kv_before, layout.grid.patches, layout.grid.tokens
        added, moved = torch.zeros(2, len(rows), layout.kv_tokens)
        for row, boosts, moves in zip(rows, added, moved, strict=True):
            if layout.q_before <= row < layout.q_before + tokens:
                frame, others = (row - layout.q_before) // patches, range(layout.grid.frames)
                seen = [pattern.boost(frame, x) if pattern.allows(frame, x) else -math.inf for x in others]
                boosts[first : first + tokens] = torch.tensor(seen).repeat_interleave(patches)
                distances = [pattern.distance(frame, x) - (frame - x) for x in others]
                moves[first : first + tokens] = torch.tensor(distances).repeat_interleave(patches)
        added, moved = added.to(self.device), moved.to(self.device)
        heads = []
        for head in range(self.q.shape[2]):
            q, k, v = (
                x.float() for x in (self.q[0, rows, head], self.k[0, :, head // group], self.v[0, :, head // group])
            )
            scores = q @ k.T
            for by in {*moved.flatten().tolist()} - {0.0}:
                assert pattern.remap is not None
                scores = torch.where(moved == by, _turned(q, by, pattern.remap.axis) @ k.T, scores)
            heads.append((scores * self.scale + added).softmax(-1) @ v)
        return torch.stack(heads, 1)


def difference(out: Tensor, expected: Tensor) -> float | None:
    """The largest, None if it is no finite number."""
    largest = (out.float() - expected.float()).abs().max().item()
    return largest if math.isfinite(largest) else None


def in_groups(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float
) -> Tensor:
    """Attention by a kernel with a budget of memory for half of the heads."""
    half = HeadGroups(CallSize.of(q, k).extra(2) / GB)
    return compute(kernel, q, k, v, pattern, layout, scale, half)


def planning(layout: TokenLayout, horizon: int, kernel: Kernel, device: torch.device) -> dict[str, float]:
    """Seconds of the host for a denoising step of all layers: the pattern, and the tables that the kernel reads.

    Returns:
        new, known: medians of a step with anchors not seen before, and of one with known ones. rotating: mean of the 50
        steps of a request, whose anchors come back after one rotation.
    """
    frames, reads_tables = layout.grid.frames, not isinstance(kernel, PrefixWindow) or isinstance(kernel, VarlenWindow)

    def planned(step: int) -> None:
        calls = cascade(plan(frames, reference_frames=horizon, step=step), layout)
        if reads_tables:
            tables(calls.pattern, layout, device)
        else:
            frame_indices(calls.order, device)
            _ = calls.batches

    interval = plan(frames, reference_frames=horizon).keyframe_interval
    new, known, rotating = [], [], []
    for _ in range(9):
        for cache in (_pattern, cascade, _frame_indices, spans, _tables):
            cache.cache_clear()
        times = [seconds(lambda step=step: planned(step), CPU) for step in range(50)]  # type: ignore[misc]
        new += times[:interval]
        known += times[interval:]
        rotating.append(statistics.mean(times))
    return {"new": statistics.median(new), "known": statistics.median(known), "rotating": statistics.median(rotating)}


def measure(
    inputs: Inputs, pattern: Pattern, horizon: int, kernels: Mapping[str, Callable[..., Tensor]], chosen: Kernel | None,
    dense: Mapping[str, Dense], case_seconds: float, runs: tuple[int, int], patience: float = 0.0,
    patterns: Mapping[str, Pattern] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """All numbers of one length.

    Args:
        kernels: attentions of (q, k, v, pattern, layout, scale) by name, the first is the one that counts.
        chosen: whose parts and planning are watched, None where the pattern is dense.
        case_seconds, runs: each side runs as often as fits into so many seconds together, within these numbers.
        patience: see :func:`lvsa_vllm_omni.measure.timing.interleaved`.
        patterns: those of kernels, by name, that compute another one.

    Raises:
        RuntimeError: if nothing, or no dense attention, runs at this size.
    """
    layout, every = inputs.layout, inputs.layout.q_tokens
    rows = sorted({0, layout.grid.tokens - 1, every - 1, *random.sample(range(every), min(8, every))})
    exact = {computed: inputs.exact(rows, computed) for computed in {pattern, *(patterns or {}).values()}}
    sides: dict[str, Callable[[], Tensor]] = {}
    results: dict[str, dict[str, Any]] = {}
    first: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, function in (*kernels.items(), *((f"dense {name}", call) for name, call in dense.items())):
        computed = (patterns or {}).get(name, pattern)
        more = (inputs.scale,) if name.startswith("dense ") else (computed, layout, inputs.scale)
        sides[name] = partial(function, *inputs.tensors, *more)
        try:
            found = difference(sides[name]()[0, rows], exact[computed])
            if name in kernels:
                extra = peak_memory(sides[name], inputs.device) - inputs.q.nbytes
                results[name] = {"difference": found, "right": inputs.right(found), "extra_bytes": extra}
            first[name] = seconds(sides[name], inputs.device)
        except Exception as error:  # out of memory, or a library that fails at this size only
            failed[name] = first_line(error)
            results.pop(name, None)
    if not any(name.startswith("dense ") for name in first):
        raise RuntimeError(f"no dense attention runs at this size: {failed}")
    repeats = max(runs[0], min(runs[1], int(case_seconds / sum(first.values()))))
    times, quiet = interleaved({name: sides[name] for name in first}, inputs.device, repeats, patience)
    middle = medians(times)
    dense_times = {name: middle[f"dense {name}"] for name in dense if f"dense {name}" in middle}
    reference = (
        "FlashAttention-3" if "FlashAttention-3" in dense_times else min(dense_times, key=dense_times.__getitem__)
    )

    pairs = attended_pairs(pattern, layout)
    density = pairs / (every * layout.kv_tokens)
    for name, result in results.items():
        ratio = middle[name] / dense_times[reference]
        result |= {"seconds": middle[name], "ratio": ratio, "overhead": ratio / density}
    heads, size = inputs.q.shape[2:]
    return {
        "frames": layout.grid.frames, "tokens": every, "heads": [heads, inputs.k.shape[2]],
        "interval": pattern.keyframe_interval, "density": density, "dense_pattern": pattern.is_dense,
        "repeats": repeats, "quiet": quiet, "reference": reference, "dense": dense_times,
        "flop": 4 * pairs * heads * size, "moved_bytes": 2 * inputs.q.nbytes + inputs.k.nbytes + inputs.v.nbytes,
        "bound_bytes": sum(x.nbytes for x in inputs.tensors) + 2 * 4 * heads * every,
        "kernels": results, "failed": failed,
        "chosen": next(iter(results), None),
        "parts": parts_of(chosen, *inputs.tensors, pattern, layout, min(3, repeats)) if chosen else None,
        "planning": planning(layout, horizon, chosen, inputs.device) if chosen else None,
    }  # fmt: skip


def rows_of(case: dict[str, Any]) -> list[list[str]]:
    """The lines of a case's table: its kernels, then the dense attentions."""
    lines = []
    for name, row in case["kernels"].items():
        off = "not a number" if row["difference"] is None else f"{row['difference']:.1e}"
        roofline = f"{row['roofline']:.2f}" if "roofline" in row else ""
        lines.append([
            name, f"{row['seconds'] * 1e3:.4g} ms", f"{row['ratio']:.3f}", f"{row['overhead']:.3f}", roofline,
            f"{row['extra_bytes'] / 2**20:.1f} MiB", f"{row['extra_bytes'] / case['bound_bytes']:.0%}",
            off if row["right"] else f"{off} WRONG",
        ])  # fmt: skip
    for name, value in case["dense"].items():
        named = f"dense {name}{' (the reference)' if name == case['reference'] else ''}"
        ratio = value / case["dense"][case["reference"]]
        lines.append([named, f"{value * 1e3:.4g} ms", f"{ratio:.3f}", "", "", "", "", ""])
    return lines


def describe(case: dict[str, Any]) -> list[str]:
    """A case in words: what ran, its table, where the time of the first kernel goes."""
    pattern = "dense pattern" if case["dense_pattern"] else f"density {case['density']:.3f}"
    others = "" if case["quiet"] or not case.get("waited") else "; other programs ran meanwhile"
    lines = [
        f"{case['model']}, T={case['frames']}, {case['tokens']} tokens, {case['heads'][0]} heads, {pattern}, "
        f"{case['repeats']} runs{others}",
        *table("kernel | time | /dense | overhead | /floor | extra memory | of the bound | difference", rows_of(case)),
        *(f"{name} failed: {reason}" for name, reason in case["failed"].items()),
    ]
    if case["parts"]:
        whole = sum(case["parts"].values())
        shares = (f"{part} {milliseconds(x)} ({x / whole:.1%})" for part, x in case["parts"].items())
        lines.append(f"{case['chosen']}: {', '.join(shares)}")
    if case["planning"]:
        new, known, mean = (f"{case['planning'][name] * 1e3:.3f} ms" for name in ("new", "known", "rotating"))
        lines.append(f"planning a step: {new} with new anchors, {known} with known ones, mean of 50 steps {mean}")
    return lines

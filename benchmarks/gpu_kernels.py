"""What the GPU's benchmark compares: all kernels and dense attentions, whether they are right, and their times."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from fused_triton import FusedTriton
from gpu_cases import ALLOWED, Inputs, Shape, attended_pairs
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core import Pattern, attend, plan, reference_attend
from lvsa_core.cascade import cascade, spans, tables
from lvsa_core.kernels import KERNELS, Kernel, KernelUnavailable, selftest
from lvsa_core.pattern import _pattern
from lvsa_vllm_omni.measure.stopwatch import parts_of
from lvsa_vllm_omni.measure.timing import interleaved, medians, peak_memory, poison, seconds

#: What is checked and timed: the registered kernels, and after them those that are not (yet) part of the package.
COMPARED: dict[str, Kernel] = {**KERNELS, FusedTriton.name: FusedTriton()}

CASE_SECONDS = 20.0  # a case gets 5 to 15 runs of each side, as many as fit in this


def first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def dense_flash_attention_3(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Dense attention [1, S, H, D] by the first FlashAttention-3 that is there."""
    reasons = []
    for name in ("FlashAttention3", "FlashAttention3-vllm"):
        reason = KERNELS[name].available(q.device, q.dtype, q.shape[3])
        if reason is None:
            return KERNELS[name].attention(q, k, v, scale)[0]
        reasons.append(reason)
    raise KernelUnavailable("; ".join(dict.fromkeys(reasons)))


def dense_sdpa(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """Dense attention [1, S, H, D] by one of PyTorch's kernels."""

    def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        grouped = q.shape[2] != k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped).transpose(1, 2)

    return dense


def dense_flashinfer(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Dense attention [1, S, H, D] by FlashInfer."""
    if reason := KERNELS["FlashInfer"].available(q.device, q.dtype, q.shape[3]):
        raise KernelUnavailable(reason)
    from flashinfer import single_prefill_with_kv_cache

    return single_prefill_with_kv_cache(q[0], k[0], v[0], causal=False, kv_layout="NHD", sm_scale=scale)[None]


DENSE = {
    "FlashAttention-3": dense_flash_attention_3,
    "SDPA cuDNN": dense_sdpa(SDPBackend.CUDNN_ATTENTION),
    "SDPA flash": dense_sdpa(SDPBackend.FLASH_ATTENTION),
    "FlashInfer": dense_flashinfer,
}


def difference(out: Tensor, expected: Tensor) -> float | None:
    """The largest, None if it is no finite number."""
    largest = (out.float() - expected.float()).abs().max().item()
    return largest if math.isfinite(largest) else None


def right(largest: float | None) -> bool:
    """Whether a difference may come from rounding."""
    return largest is not None and largest <= ALLOWED


def check(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs, expected: Tensor
) -> tuple[str, float | None]:
    """Run on poisoned memory: ``right``, ``wrong`` or what was raised, and the difference from the oracle."""
    device, layout = inputs.q.device, inputs.layout
    if device.type == "cuda":
        torch.cuda.empty_cache()  # or the output lands in a block that the poison did not get
    poison(device, 16 * inputs.q.nbytes)
    try:
        out = function(*inputs.tensors)
        start = layout.q_before + layout.real_rows
        out[:, start : layout.q_before + layout.video_rows] = 0  # padding, which kernels leave as it is
        found = difference(out, expected)
    except Exception as error:  # whatever a library raises that does not fit the device
        return f"raised {first_line(error)}", None
    return "right" if right(found) else "wrong", found


def check_kernels(
    kernels: list[Kernel], shapes: list[Shape], device: torch.device, noise: torch.Generator, seed: int
) -> list[dict[str, Any]]:
    """Every kernel on every model's layout, and on one with everything in it, against the oracle."""
    calls = []
    for shape in shapes:
        frames = 2 * shape.horizon
        calls.append((plan(frames, reference_frames=shape.horizon, step=seed), shape.layout(frames), shape))
    calls.append((selftest.PATTERN, selftest.LAYOUT, replace(shapes[0], heads=2, kv_heads=1)))
    rows = []
    for pattern, layout, shape in calls:
        inputs = Inputs(layout, shape.heads, shape.kv_heads, shape.head_size, device, noise)
        expected = reference_attend(*inputs.tensors, pattern, layout)
        for kernel in kernels:
            result, found = check(
                lambda q, k, v: kernel.attend(q, k, v, pattern, layout, inputs.scale),  # noqa: B023
                inputs,
                expected,
            )
            rows.append({"kernel": kernel.name, "layout": str(layout), "result": result, "difference": found})
    return rows


def check_dense(
    shape: Shape, device: torch.device, noise: torch.Generator
) -> tuple[dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]], dict[str, str]]:
    """The dense attentions that run and are right, and why the others are left out."""
    layout, pattern = shape.layout(4), Pattern(4)
    inputs = Inputs(layout, shape.heads, shape.kv_heads, shape.head_size, device, noise)
    expected = reference_attend(*inputs.tensors, pattern, layout)
    runs_here, reasons = {}, {}
    for name, function in DENSE.items():
        result, found = check(lambda q, k, v: function(q, k, v, inputs.scale), inputs, expected)  # noqa: B023
        if result == "right":
            runs_here[name] = function
        else:
            reasons[name] = result if found is None else f"{result}, off by {found:.2g}"
    return runs_here, reasons


# --- The times --------------------------------------------------------------------------------------------------------


def planning_seconds(shape: Shape, frames: int, device: torch.device) -> float:
    """Median host time of a denoising step with new anchors: the pattern and the tables of all layers."""
    layout, times = shape.layout(frames), []
    for cache in (_pattern, cascade, spans, tables):
        cache.cache_clear()
    for step in range(plan(frames, reference_frames=shape.horizon).keyframe_interval):
        _pattern.cache_clear()
        start = time.perf_counter()
        tables(plan(frames, reference_frames=shape.horizon, step=step), layout, device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def timed_in_turns(
    sides: dict[str, Callable[[], Tensor]], device: torch.device, tiny: bool
) -> tuple[dict[str, float], int, dict[str, str]]:
    """Medians of the sides that run, of how many runs (as many as a first one of each lets fit), why others do not."""
    first: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, side in sides.items():
        try:
            first[name] = seconds(side, device)
        except Exception as error:  # out of memory, or a library that fails at this size only
            failed[name] = first_line(error)
    if not first:
        raise RuntimeError(f"nothing runs at this size: {failed}")
    repeats = 2 if tiny else max(5, min(15, int(CASE_SECONDS / sum(first.values()))))
    times, _ = interleaved({name: sides[name] for name in first}, device, repeats)
    return medians(times), repeats, failed


def first_calls(
    kernels: list[Kernel], inputs: Inputs, pattern: Pattern, device: torch.device
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Of each kernel the difference from some exact rows and the extra memory; of those that fail the reason."""
    tokens, every = inputs.layout.grid.tokens, inputs.layout.q_tokens
    rows = sorted({0, tokens - 1, every - 1, *random.sample(range(every), 8)})
    expected = inputs.exact(rows, pattern)
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for kernel in kernels:
        try:
            found = difference(_call(inputs, pattern, kernel)()[0, rows], expected)
            extra = peak_memory(_call(inputs, pattern, kernel), device) - inputs.q.nbytes
        except Exception as error:  # out of memory, or a library that fails at this size only
            failed[kernel.name] = first_line(error)
            continue
        results[kernel.name] = {"difference": found, "right": right(found), "extra_bytes": extra}
    return results, failed


def measure(
    name: str, shape: Shape, frames: int, kernels: list[Kernel], dense: dict[str, Callable[..., Tensor]],
    rates: dict[str, float], device: torch.device, noise: torch.Generator, tiny: bool,
) -> dict[str, Any]:  # fmt: skip
    """All numbers of one case; of kernels only the first where the pattern is dense and all do the same."""
    layout, pattern = shape.layout(frames), plan(frames, reference_frames=shape.horizon)
    inputs = Inputs(layout, shape.heads, shape.kv_heads, shape.head_size, device, noise)
    results, failed = first_calls(kernels[: 1 if pattern.is_dense else None], inputs, pattern, device)
    sides: dict[str, Callable[[], Tensor]] = {kernel: _call(inputs, pattern, COMPARED[kernel]) for kernel in results}
    for side, function in dense.items():
        sides[f"dense {side}"] = lambda function=function: function(*inputs.tensors, inputs.scale)

    times, repeats, failed_later = timed_in_turns(sides, device, tiny)
    results = {kernel: result for kernel, result in results.items() if kernel in times}
    dense_times = {side: times[f"dense {side}"] for side in dense if f"dense {side}" in times}
    if not dense_times:
        raise RuntimeError(f"no dense attention runs at this size: {failed_later}")
    fastest = min(dense_times, key=dense_times.__getitem__)
    reference = "FlashAttention-3" if "FlashAttention-3" in dense_times else fastest

    pairs = attended_pairs(pattern, layout)
    density = pairs / (layout.q_tokens * layout.kv_tokens)
    moved = 2 * inputs.q.nbytes + inputs.k.nbytes + inputs.v.nbytes
    floor = max(4 * pairs * shape.heads * shape.head_size / rates["flop"], moved / rates["bytes"])
    for kernel, result in results.items():
        ratio = times[kernel] / dense_times[reference]
        overhead, roofline = ratio / density, times[kernel] / floor
        result |= {"seconds": times[kernel], "ratio": ratio, "overhead": overhead, "roofline": roofline}
    chosen = next(iter(results), None)
    parts = None
    if chosen and not pattern.is_dense:
        parts = parts_of(COMPARED[chosen], sides[chosen], device, min(3, repeats))
    return {
        "model": name, "frames": frames, "tokens": layout.q_tokens, "heads": [shape.heads, shape.kv_heads],
        "interval": pattern.keyframe_interval, "density": density, "dense_pattern": pattern.is_dense,
        "repeats": repeats, "reference": reference, "dense": dense_times, "floor": floor,
        "bound_bytes": sum(x.nbytes for x in inputs.tensors) + 2 * 4 * shape.heads * layout.q_tokens,
        "chosen": chosen, "kernels": results, "failed": failed | failed_later, "parts": parts,
        "planning": planning_seconds(shape, frames, device),
    }  # fmt: skip


def _call(inputs: Inputs, pattern: Pattern, kernel: Kernel) -> Callable[[], Tensor]:
    if kernel.name not in KERNELS:  # which ``attend`` does not know
        return lambda: kernel.attend(*inputs.tensors, pattern, inputs.layout, inputs.scale)
    return lambda: attend(*inputs.tensors, pattern, inputs.layout, scale=inputs.scale, kernel=kernel.name)

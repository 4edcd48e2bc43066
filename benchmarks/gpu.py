"""Checks and times every attention kernel on one GPU, beside the dense kernels, in one command and under 8 minutes.

    PYTHONPATH=. python benchmarks/gpu.py --json gpu.json --figure gpu.png

First every kernel is compared with ``reference_attend``, on random data that is fresh each time and with free memory
filled with NaN before each run. Then the attention of one layer is timed in bfloat16 at the head shapes of Wan,
HunyuanVideo and Cosmos, the runs of all kernels and of the dense attentions interleaved. For every case it prints

- ``/dense``: a kernel's time over that of dense attention, by FlashAttention-3 if it runs, else by the fastest;
- ``overhead``: the same over the density, 1 if only the attended pairs of tokens (text included) cost time. The target
  is at most 1.10 beside FlashAttention-3 on Hopper from T=41 on;
- ``/floor``: a kernel's time over the roofline, which is what the FLOP and the bytes of inputs and output take at the
  rates of matrix product and copy that this card has just shown;
- peak memory beyond inputs and output, as a share of its bound (one copy of Q, K and V, and the log-sum-exps), where
  the time of the fastest kernel goes, and what a denoising step with new anchors costs the host;
- the largest difference of a few rows of the timed shape from a float32 computation.

``fused-triton`` (family ``candidate``) is a candidate beside the kernels of the package and no part of it.

The most important cases come first; those that do not fit in ``--budget`` are named. The JSON file is written after
every case. The exit status is 1 if a kernel that says it is available gives wrong numbers, 2 if nothing can be run.

It needs PyTorch and this repository; no network. For FlashAttention-3 (Hopper) and FlashInfer carry their wheels. On a
machine with a network, with the other machine's Python and platform:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_24_x86_64 \\
        --dest wheels fa3-fwd flashinfer-python

and there, after copying the folder (pip matches the platform exactly: if it finds nothing, try another number):

    pip install --no-index --no-deps --find-links wheels fa3-fwd flashinfer-python

``--no-deps`` keeps the PyTorch that is there. fa3-fwd (28 MB) needs nothing else at run time. FlashInfer needs the
packages that ``pip show flashinfer-python`` lists, as far as they are missing there, and for its kernels either the
wheel flashinfer-jit-cache of exactly its version and of that machine's CUDA (over 1 GB), or the CUDA toolkit's nvcc and
ninja; then its first run compiles for some minutes, which count as budget: leave it out with ``--kernels flash,sdpa``
or raise ``--budget``. A kernel or dense attention that is missing is listed with the reason, and the rest runs.

``--device cpu --tiny`` runs all of it on shrunk shapes in some seconds, to see that it works; its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, plan, reference_attend
from lvsa_core.cascade import cascade, runs, tables
from lvsa_core.kernels import KERNELS, Kernel, KernelUnavailable, select, selftest
from lvsa_core.measure import copy_rate, facts, interleaved, matmul_rate, medians, normal, peak_memory, poison, seconds
from lvsa_core.pattern import _pattern
from lvsa_core.stopwatch import parts_of

sys.path.append(str(Path(__file__).parent))  # for when this file is not run as a script
from fused_triton import FusedTriton

#: What is checked and timed: the registered kernels, and after them those that are not (yet) part of the package.
COMPARED: dict[str, Kernel] = {**KERNELS, FusedTriton.name: FusedTriton()}

DTYPE = torch.bfloat16
ALLOWED = selftest.TOLERANCE[DTYPE]  # for outputs of size 1, which loud queries give
LOUDNESS = 3.0
TARGET, TARGET_FRAMES = 1.10, 41
CASE_SECONDS = 20.0  # a case gets 5 to 15 runs of each side, as many as fit in this


@dataclass(frozen=True)
class Shape:
    """The attention of one layer of a model.

    Args:
        patches: tokens of a latent frame.
        horizon: latent frames that the model was trained for.
        before: text tokens before the video, in the keys only. after: text after it, in queries and keys.
        frames: numbers of latent frames to time.
    """

    patches: int
    heads: int
    kv_heads: int
    horizon: int
    head_size: int = 128
    before: int = 0
    after: int = 0
    frames: tuple[int, ...] = (81, 41, 121, 21)

    def layout(self, frames: int) -> TokenLayout:
        """The order of tokens with so many latent frames."""
        grid = FrameGrid(frames, self.patches)
        return TokenLayout(grid, kv_before=self.before, kv_after=self.after, q_after=self.after)

    def small(self, patches: int, head_size: int) -> Shape:
        """The same order and groups of heads with fewer tokens."""
        before, after = min(self.before, 77), min(self.after, 77)
        return Shape(patches, 2 * self.heads // self.kv_heads, 2, self.horizon, head_size, before, after)


#: 480p: 480x832, HunyuanVideo 480x848. Text: HunyuanVideo's longest prompt without quoted words (the engine drops its
#: padding), Cosmos' of an ordinary length (at most 4096).
MODELS = {
    "wan-14b": Shape(30 * 52, 40, 40, 21),
    "wan-1.3b": Shape(30 * 52, 12, 12, 21),
    "hunyuan-video-1.5": Shape(30 * 53, 16, 16, 33, after=1000),
    "cosmos3": Shape(15 * 26, 32, 8, 48, before=512),
    "wan-14b-720p": Shape(45 * 80, 40, 40, 21, frames=(41,)),
}
FIRST = ("wan-14b", "wan-1.3b")  # with all their lengths but the dense one


def parse_arguments() -> argparse.Namespace:
    """Command line; names are checked here."""
    names, families = [*COMPARED], list(dict.fromkeys(kernel.family for kernel in COMPARED.values()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--frames", help="latent frames for all models; default: 21,41,81,121, at 720p 41")
    parser.add_argument("--kernels", default=",".join(families), help="families or names; default: %(default)s")
    parser.add_argument("--budget", type=float, default=420, metavar="SECONDS", help="start no case after that")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, after every case")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the overheads there (needs matplotlib)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="shrunk shapes, two runs each")
    arguments = parser.parse_args()
    arguments.models = arguments.models.split(",")
    arguments.kernels = arguments.kernels.split(",")
    for given, known in ((arguments.models, [*MODELS]), (arguments.kernels, families + names)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{', '.join(unknown)}: not known; choose of {', '.join(known)}")
    try:
        arguments.frames = tuple(map(int, arguments.frames.split(","))) if arguments.frames else None
    except ValueError:
        parser.error(f"--frames takes whole numbers separated by commas, got {arguments.frames}")
    return arguments


def first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# --- What is compared -------------------------------------------------------------------------------------------------


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


class Inputs:
    """Random queries, keys and values of a call, and the exact result of some rows.

    The queries are loud: a handful of keys decide about each output, so that a wrong one shows. As from Wan's blocks,
    queries and keys are contiguous, and values a part of a fused projection, with gaps between tokens.
    """

    def __init__(
        self, layout: TokenLayout, heads: int, kv_heads: int, size: int, device: torch.device, noise: torch.Generator
    ) -> None:
        self.layout, self.scale = layout, size**-0.5
        shapes = [(layout.q_tokens, heads), (layout.kv_tokens, kv_heads), (layout.kv_tokens, 2 * kv_heads)]
        self.q, self.k, fused = (normal(1, *x, size, dtype=DTYPE, device=device, noise=noise) for x in shapes)
        self.q *= LOUDNESS
        self.v = fused[:, :, kv_heads:]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    def exact(self, rows: list[int], pattern: Pattern) -> Tensor:
        """Some rows of the output in float32, [n, H, D]; for layouts without padding."""
        layout, group = self.layout, self.q.shape[2] // self.k.shape[2]
        first, patches, tokens = layout.kv_before, layout.grid.patches, layout.grid.tokens
        seen = torch.ones(len(rows), layout.kv_tokens, dtype=torch.bool)
        for row, keys in zip(rows, seen, strict=True):
            if layout.q_before <= row < layout.q_before + tokens:
                frame = (row - layout.q_before) // patches
                allowed = torch.tensor([pattern.allows(frame, other) for other in range(layout.grid.frames)])
                keys[first : first + tokens] = allowed.repeat_interleave(patches)
        hidden = ~seen.to(self.q.device)
        heads = []
        for head in range(self.q.shape[2]):
            q, k, v = self.q[0, rows, head], self.k[0, :, head // group], self.v[0, :, head // group]
            scores = (q.float() @ k.float().T * self.scale).masked_fill(hidden, -math.inf)
            heads.append(scores.softmax(-1) @ v.float())
        return torch.stack(heads, 1)


def difference(out: Tensor, expected: Tensor) -> float | None:
    """The largest, None if it is no finite number."""
    largest = (out.float() - expected.float()).abs().max().item()
    return largest if math.isfinite(largest) else None


def right(largest: float | None) -> bool:
    """Whether a difference may come from rounding."""
    return largest is not None and largest <= ALLOWED


# --- The numbers ------------------------------------------------------------------------------------------------------


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


def attended_pairs(pattern: Pattern, layout: TokenLayout) -> int:
    """Pairs of query and key tokens that the pattern computes, for a whole video without padding."""
    frames, patches, others = layout.grid.frames, layout.grid.patches, layout.kv_before + layout.kv_after
    video = sum(map(pattern.attended_count, range(frames))) * patches**2 + layout.grid.tokens * others
    return video + (layout.q_before + layout.q_after) * layout.kv_tokens


def planning_seconds(shape: Shape, frames: int, device: torch.device) -> float:
    """Median host time of a denoising step with new anchors: the pattern and the tables of all layers."""
    layout, times = shape.layout(frames), []
    for cache in (_pattern, cascade, runs, tables):
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


# --- What is said -----------------------------------------------------------------------------------------------------


def milliseconds(value: float) -> str:
    """Three digits or more."""
    return f"{value * 1e3:.{2 if value < 0.01 else 1}f} ms"


def report(case: dict[str, Any]) -> Iterator[str]:
    """A case as a table."""
    what = "dense pattern" if case["dense_pattern"] else f"density {case['density']:.3f}"
    yield (
        f"\n{case['model']}, T={case['frames']}, {case['tokens']} tokens, {case['heads'][0]} heads, {what}, "
        f"floor {milliseconds(case['floor'])}, {case['repeats']} runs"
    )
    yield "| kernel | time | /dense | overhead | /floor | extra memory | of the bound | difference |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in case["kernels"].items():
        off = "not a number" if row["difference"] is None else f"{row['difference']:.1e}"
        yield (
            f"| {name} | {milliseconds(row['seconds'])} | {row['ratio']:.3f} | {row['overhead']:.3f} | "
            f"{row['roofline']:.2f} | {row['extra_bytes'] / 2**20:.0f} MiB | "
            f"{row['extra_bytes'] / case['bound_bytes']:.0%} | {off}{'' if row['right'] else ' WRONG'} |"
        )
    for name, value in case["dense"].items():
        named = f"dense {name}{' (the reference)' if name == case['reference'] else ''}"
        yield f"| {named} | {milliseconds(value)} | {value / case['dense'][case['reference']]:.3f} | | | | | |"
    for name, reason in case["failed"].items():
        yield f"{name} failed: {reason}"
    if case["parts"]:
        yield f"{case['chosen']}: " + ", ".join(f"{part} {milliseconds(x)}" for part, x in case["parts"].items())
    yield f"new anchors cost the host {case['planning'] * 1e3:.2f} ms a step"


def print_checks(results: dict[str, Any], device: torch.device) -> None:
    """What runs here, what does not, and why."""
    print(f"\nEvery kernel against reference_attend, {DTYPE}, random data; allowed is a difference of {ALLOWED}:")
    for name in dict.fromkeys(row["kernel"] for row in results["checks"]):
        rows = [row for row in results["checks"] if row["kernel"] == name]
        faults = [f"{row['result']} (off by {row['difference']}) on {row['layout']}" for row in rows
                  if row["result"] != "right"]  # fmt: skip
        largest = max((row["difference"] for row in rows if row["difference"] is not None), default=0)
        print(f"{name}: {'; '.join(faults) or f'right on {len(rows)} layouts, off by at most {largest:.2g}'}")
    for name, reason in results["unavailable"].items():
        print(f"{name}: does not run here: {reason}")
    for name, reason in results["dense_unavailable"].items():
        print(f"dense {name}: left out: {reason}")
    print(f"auto takes: {results['auto']}", flush=True)


def auto(device: torch.device) -> str:
    """What ``attend`` would run by itself, and what it passes over."""
    try:
        return str(select("auto", device, DTYPE, 128))
    except KernelUnavailable as error:
        return f"nothing: {error}"


def verdict(results: dict[str, Any], hopper: bool) -> dict[str, Any]:
    """The largest overhead of the kernel that ran as first choice, and whether it is within the target."""
    judged = [
        (case["kernels"][case["chosen"]]["overhead"], f"{case['model']} T={case['frames']} {case['chosen']}")
        for case in results["cases"]
        if case["chosen"] and case["frames"] >= TARGET_FRAMES and not case["dense_pattern"]
        and case["reference"] == "FlashAttention-3"
    ]  # fmt: skip
    target = f"{TARGET:.2f} x density x dense FlashAttention-3 on Hopper from T={TARGET_FRAMES} on"
    if not (hopper and judged):
        sentence = f"The target, {target}, is not judged: no such case ran here."
        return {"largest": None, "within": None, "sentence": sentence}
    largest, where = max(judged)
    within = largest <= TARGET
    sentence = f"Largest overhead: {largest:.3f} ({where}), {'within' if within else 'ABOVE'} the target, {target}."
    return {"largest": largest, "within": within, "sentence": sentence}


def draw(results: dict[str, Any], file: Path) -> None:
    """Overheads by latent frames, a panel for each model."""
    try:
        import matplotlib
    except ImportError:
        print("No figure: matplotlib is not installed.", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = sorted((case for case in results["cases"] if not case["dense_pattern"]), key=lambda case: case["frames"])
    models = list(dict.fromkeys(case["model"] for case in cases)) or ["nothing timed"]
    figure, axes = pyplot.subplots(1, len(models), figsize=(4 * len(models), 4), sharey=True, squeeze=False)
    names = list(dict.fromkeys(name for case in cases for name in case["kernels"]))
    for panel, model in zip(axes[0], models, strict=True):
        here = [case for case in cases if case["model"] == model]
        for name in names:
            points = [(case["frames"], case["kernels"][name]["overhead"]) for case in here if name in case["kernels"]]
            panel.plot([t for t, _ in points], [overhead for _, overhead in points], marker="o", label=name)
        panel.axhline(1, color="grey", linewidth=0.8)
        panel.axhline(TARGET, color="grey", linewidth=0.8, linestyle="--")
        panel.set(title=model, xlabel="latent frames", xticks=[case["frames"] for case in here])
    axes[0][0].set_ylabel("time / (density x dense)")
    axes[0][0].legend(fontsize="x-small")
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


# --- The run ----------------------------------------------------------------------------------------------------------


def ordered_cases(models: dict[str, Shape], frames: tuple[int, ...] | None) -> list[tuple[str, Shape, int]]:
    """Models and numbers of latent frames, the most important first."""
    cases = [(name, shape, t) for name, shape in models.items() for t in frames or shape.frames]
    return sorted(cases, key=lambda case: (case[2] <= case[1].horizon, case[0] not in FIRST))


def save(results: dict[str, Any], file: Path | None) -> None:
    """Write the results so far, if a file is wanted."""
    if file:
        file.write_text(json.dumps(results, indent=1) + "\n")


def machine(device: torch.device, seed: int, tiny: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """What the numbers depend on, and the rates of this card in FLOP and bytes a second."""
    size, nbytes = (256, 2**22) if tiny else (8192, 2**32)
    rates = {"flop": matmul_rate(device, DTYPE, size), "bytes": copy_rate(device, nbytes)}
    measured = f"{rates['flop'] / 1e12:.4g} TFLOP/s in {DTYPE} matrix products, {rates['bytes'] / 1e12:.3g} TB/s copied"
    return {**facts(device), "measured": measured, "rates": rates, "seed": seed, "tiny": tiny}, rates


def available(arguments: argparse.Namespace, device: torch.device) -> tuple[list[Kernel], dict[str, str]]:
    """The kernels asked for that say they run here, in the order of ``auto``, and what the others say."""
    asked = [kernel for kernel in COMPARED.values() if {kernel.name, kernel.family} & {*arguments.kernels}]
    reasons = {kernel.name: kernel.available(device, DTYPE, 128) for kernel in asked}
    return [kernel for kernel in asked if reasons[kernel.name] is None], {k: r for k, r in reasons.items() if r}


def main() -> int:
    start, arguments = time.monotonic(), parse_arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: PyTorch finds no CUDA device; try it out with --device cpu --tiny", file=sys.stderr)
        return 2
    if arguments.device == "cpu" and not arguments.tiny:
        print("error: a processor is too slow for these shapes: add --tiny", file=sys.stderr)
        return 2
    device = torch.device(arguments.device, 0 if arguments.device == "cuda" else None)
    seed = random.SystemRandom().randrange(2**31)
    random.seed(seed)
    noise = torch.Generator(device).manual_seed(seed)

    facts_here, rates = machine(device, seed, arguments.tiny)
    print(*(f"{name}: {value}" for name, value in facts_here.items() if name != "rates"), sep="\n")
    models = {name: MODELS[name] for name in arguments.models}
    # About 4000 tokens each; 14B and 1.3B become the same.
    small = [*dict.fromkeys(s.small(5 if arguments.tiny else 2000 // s.horizon, 128) for s in models.values())]
    kernels, reasons = available(arguments, device)
    checks = check_kernels(kernels, small, device, noise, seed)
    dense, dense_reasons = check_dense(small[0], device, noise)
    kernels = [k for k in kernels if all(row["result"] == "right" for row in checks if row["kernel"] == k.name)]
    results: dict[str, Any] = {
        "machine": facts_here, "checks": checks, "unavailable": reasons, "dense_unavailable": dense_reasons,
        "auto": auto(device), "usable": [kernel.name for kernel in kernels], "cases": [], "left_out": [],
    }  # fmt: skip
    print_checks(results, device)
    save(results, arguments.json)

    wrong = any(row["result"] == "wrong" for row in checks)
    if not (kernels and dense):
        print(f"error: nothing to time: no {'dense attention' if kernels else 'kernel'} runs here", file=sys.stderr)
        return 1 if wrong else 2

    for name, shape, frames in ordered_cases(models, arguments.frames):
        if time.monotonic() - start > arguments.budget:
            results["left_out"].append(f"{name} T={frames}: over the budget")
            continue
        if arguments.tiny:
            shape = shape.small(4, 16)
        try:
            case = measure(name, shape, frames, kernels, dense, rates, device, noise, arguments.tiny)
        except Exception as error:  # such as no memory for the inputs: the other cases still count
            results["left_out"].append(f"{name} T={frames}: {first_line(error)}")
            continue
        results["cases"].append(case)
        print(*report(case), sep="\n", flush=True)
        save(results, arguments.json)

    results["verdict"] = verdict(results, device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9)
    results["seconds"] = time.monotonic() - start
    print(f"\n{results['verdict']['sentence']}")
    if results["left_out"]:
        print(f"Left out: {', '.join(results['left_out'])}")
    print(f"{results['seconds']:.0f} s in all")
    save(results, arguments.json)
    if arguments.figure:
        draw(results, arguments.figure)
    return int(wrong or not all(row["right"] for case in results["cases"] for row in case["kernels"].values()))


if __name__ == "__main__":
    sys.exit(main())

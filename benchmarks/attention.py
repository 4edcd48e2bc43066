"""Times ``lvsa_core.attend`` against dense attention, in one process, the runs of all sides interleaved.

Run it from the repository with the package installed:

    python benchmarks/attention.py
    python benchmarks/attention.py --dtype bfloat16 --frames 41,81 --repeats 9 --json results.json
    python benchmarks/attention.py --device cuda --dtype bfloat16 --patches 1560 --heads 40

The shapes are Wan's (head size 128, training horizon 21 latent frames) scaled to the machine: by default 2 heads and
195 tokens a frame, an eighth of 480x832. For every number of latent frames it prints

- the medians of dense attention, of ``attend``, of the same with each window's keys copied instead of read in place
  (gathered), and of the method as it is usually written: a loop over frames that concatenates each frame's keys;
- ratio: ``attend`` over dense; overhead: the ratio over the pattern's density, 1 if only the attended pairs cost time;
- where the time of ``attend`` goes, and its peak memory beyond inputs and output, also as a share of the bound, which
  is one copy of Q, K and V and the log-sum-exps;
- what planning costs for a denoising step that sees new anchors, for one that sees known ones, and for the mean of 50.

A run counts only if other programs got less than 5 % of the processors meanwhile. Where that leaves too few runs within
``--patience``, all of them count and the row is marked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, plan
from lvsa_core.cascade import cascade, frame_indices
from lvsa_core.kernels import select
from lvsa_core.kernels.prefix_window import GatheredWindow
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_core.pattern import _pattern
from lvsa_vllm_omni.measure.stopwatch import parts_of
from lvsa_vllm_omni.measure.timing import facts, interleaved, medians, peak_memory, seconds

REFERENCE_FRAMES = 21
#: On the CPU, from 41 latent frames on: the overhead, and the merge's share of the time.
OVERHEAD_LIMIT, MERGE_LIMIT = 1.12, 0.05
#: Seconds of planning a step, whatever its anchors.
PLANNING_LIMIT = 0.3e-3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--frames", default="21,41,81,121", help="latent frames, separated by commas")
    parser.add_argument("--patches", type=int, default=195, help="tokens of a latent frame")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each side; the median counts")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for quiet runs of one length")
    parser.add_argument("--no-loop", action="store_true", help="leave out the loop over frames, which is slow")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    return parser.parse_args()


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token attends to every token: the engine's own attention."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2)


class GatheredSdpa(GatheredWindow, SdpaKernel):
    """PyTorch's kernels on copied windows, a few frames at a time."""


def loop_over_frames(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """The pattern as it is usually written: one call a frame, on the concatenated keys that it attends to."""
    queries, keys, values = (x.unflatten(1, (pattern.frames, -1)) for x in (q, k, v))
    out = []
    for frame in range(pattern.frames):
        attended = pattern.attended(frame)
        frame_keys, frame_values = (torch.cat([x[:, key] for key in attended], 1) for x in (keys, values))
        out.append(dense(queries[:, frame], frame_keys, frame_values))
    return torch.cat(out, 1)


def planning(frames: int, patches: int, device: torch.device) -> dict[str, float]:
    """Seconds of planning a denoising step for all layers.

    Returns:
        new, known: medians of a step with anchors not seen before, and of one with known ones. rotating: mean of the 50
        steps of a request, whose anchors come back after one rotation.
    """
    layout, interval = (
        TokenLayout(FrameGrid(frames, patches)),
        plan(frames, reference_frames=REFERENCE_FRAMES).keyframe_interval,
    )

    def planned(step: int) -> None:
        calls = cascade(plan(frames, reference_frames=REFERENCE_FRAMES, step=step), layout)
        frame_indices(calls.order, device)
        _ = calls.batches

    new, known, rotating = [], [], []
    for _ in range(9):
        for cache in (_pattern, cascade, frame_indices):
            cache.cache_clear()
        times = [seconds(lambda step=step: planned(step), torch.device("cpu")) for step in range(50)]  # type: ignore[misc]
        new += times[:interval]
        known += times[interval:]
        rotating.append(statistics.mean(times))
    return {"new": statistics.median(new), "known": statistics.median(known), "rotating": statistics.median(rotating)}


def measure(frames: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers for one length."""
    device, layout = torch.device(arguments.device), TokenLayout(FrameGrid(frames, arguments.patches))
    pattern = plan(frames, reference_frames=REFERENCE_FRAMES)
    noise = torch.Generator().manual_seed(frames)
    shape = (1, layout.q_tokens, arguments.heads, arguments.head_size)
    q, k, v = (torch.randn(shape, generator=noise).to(device, getattr(torch, arguments.dtype)) for _ in range(3))
    sides: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: dense(q, k, v),
        "attend": lambda: attend(q, k, v, pattern, layout),
    }
    if not pattern.is_dense:
        scale = arguments.head_size**-0.5
        sides["gathered"] = lambda: GatheredSdpa().attend(q, k, v, pattern, layout, scale)
    if not (arguments.no_loop or pattern.is_dense):
        sides["loop"] = lambda: loop_over_frames(q, k, v, pattern)
        torch.testing.assert_close(sides["attend"](), sides["loop"](), rtol=0.02, atol=0.01)

    times, quiet = interleaved(sides, device, arguments.repeats, arguments.patience)
    kernel = select("auto", device, q.dtype, q.shape[3]).kernel
    parts = parts_of(kernel, sides["attend"], device, arguments.repeats) or {}
    middle = medians(times)
    ratio = middle["attend"] / middle["dense"]
    return {
        "frames": frames,
        "tokens": layout.q_tokens,
        "interval": pattern.keyframe_interval,
        "density": pattern.density,
        "seconds": middle,
        "ratio": ratio,
        "overhead": ratio / pattern.density,
        "parts": {name: value / sum(parts.values()) for name, value in parts.items()},
        "memory": {
            "copies_of_qkv": sum(x.nbytes for x in (q, k, v)),
            "log_sum_exps": 2 * 4 * arguments.heads * layout.q_tokens,
            **{name: peak_memory(side, device) - q.nbytes for name, side in sides.items()},
        },
        "planning": planning(frames, arguments.patches, device),
        "quiet": quiet,
    }


def report(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The results as two tables and a verdict."""
    yield "| T | density | dense | attend | gathered | loop | ratio | overhead | gathered / attend |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        times = {name: f"{value:.3f} s" for name, value in row["seconds"].items()}
        gain = f"{row['seconds']['gathered'] / row['seconds']['attend']:.3f}" if "gathered" in times else "-"
        yield (
            f"| {row['frames']} | {row['density']:.3f} | {times['dense']} | {times['attend']} | "
            f"{times.get('gathered', '-')} | {times.get('loop', '-')} | {row['ratio']:.3f} | {row['overhead']:.3f}"
            f"{'' if row['quiet'] else ' (other programs ran)'} | {gain} |"
        )
    yield ""
    yield "| T | prefix | windows | merge | copies | extra memory | of the bound | new anchors | known | mean of 50 |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        parts = " | ".join(f"{row['parts'][part]:.1%}" for part in ("prefix", "windows", "merge", "copies"))
        memory = row["memory"]
        allowed = memory["copies_of_qkv"] + memory["log_sum_exps"]
        planned = " | ".join(f"{row['planning'][name] * 1e3:.3f} ms" for name in ("new", "known", "rotating"))
        extra = f"{memory['attend'] / 2**20:.1f} MiB | {memory['attend'] / allowed:.0%}"
        yield f"| {row['frames']} | {parts} | {extra} | {planned} |"
    yield ""
    long = [row for row in rows if row["frames"] >= 41]
    for name, unit, limit, values in (
        ("overhead", "", OVERHEAD_LIMIT, [row["overhead"] for row in long]),
        ("share of the merge", "", MERGE_LIMIT, [row["parts"]["merge"] for row in long]),
        ("planning of new anchors", " s", PLANNING_LIMIT, [row["planning"]["new"] for row in long]),
    ):
        if values:
            verdict = "within" if max(values) <= limit else "ABOVE"
            yield f"Largest {name} from T=41 on: {max(values):.3g}{unit}, {verdict} {limit:g}{unit}, the CPU's limit."


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    device = torch.device(arguments.device)
    kernel = select("auto", device, getattr(torch, arguments.dtype), arguments.head_size)
    return {
        **facts(device),
        "kernel": str(kernel),
        "shapes": f"{arguments.dtype}, {arguments.heads} heads of {arguments.head_size}, "
        f"{arguments.patches} tokens a frame",
        "runs": f"medians of {arguments.repeats}, interleaved",
        "load_before": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    arguments = parse_arguments()
    results: dict[str, Any] = {"machine": machine(arguments), "rows": []}
    for name, value in results["machine"].items():
        if value is not None:
            print(f"{name}: {value}")
    print(flush=True)
    for frames in arguments.frames.split(","):
        results["rows"].append(measure(int(frames), arguments))
        print(f"T={frames} is measured", file=sys.stderr, flush=True)
    print(*report(results["rows"]), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

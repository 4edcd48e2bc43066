"""Times ``lvsa_core.attend`` against dense attention, in one process, the runs of all sides interleaved.

Run it from the repository with the package installed:

    python benchmarks/attention.py
    python benchmarks/attention.py --dtype bfloat16 --frames 41,81 --repeats 9 --json results.json
    python benchmarks/attention.py --device cuda --dtype bfloat16 --patches 1560 --heads 40

The shapes are Wan's (head size 128, training horizon 21 latent frames) scaled to the machine: by default 2 heads and
195 tokens a frame, an eighth of 480x832. For every number of latent frames it prints

- the medians of dense attention, of ``attend``, and of the method as it is usually written: a loop over frames that
  concatenates each frame's keys;
- ratio: ``attend`` over dense; overhead: the ratio over the pattern's density, 1 if only the attended pairs cost time;
- where the time of ``attend`` goes, and its peak memory beyond inputs and output, also as a share of the bound, which
  is one copy of Q, K and V and the log-sum-exps;
- what planning costs for a denoising step that sees new anchors, and for one that sees known ones.

A run counts only if other programs got less than 5 % of the processors meanwhile. Where that leaves too few runs within
``--patience``, all of them count and the row is marked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, attention, plan
from lvsa_core.cascade import cascade
from lvsa_core.kernels import select
from lvsa_core.kernels.merge import merge_
from lvsa_core.pattern import _pattern

REFERENCE_FRAMES = 21
#: On the CPU, from 41 latent frames on.
OVERHEAD_LIMIT = 1.25


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


def loop_over_frames(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """The pattern as it is usually written: one call a frame, on the concatenated keys that it attends to."""
    queries, keys, values = (x.unflatten(1, (pattern.frames, -1)) for x in (q, k, v))
    out = []
    for frame in range(pattern.frames):
        attended = pattern.attended(frame)
        frame_keys, frame_values = (torch.cat([x[:, key] for key in attended], 1) for x in (keys, values))
        out.append(dense(queries[:, frame], frame_keys, frame_values))
    return torch.cat(out, 1)


def seconds(function: Callable[[], Any], device: str) -> float:
    """Wall-clock time of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(function: Callable[[], Any], device: str) -> int:
    """Most bytes that PyTorch held at once during the call, beyond what it held before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as trace:
        function()
    assert trace.profiler is not None and trace.profiler.kineto_results is not None
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@contextmanager
def stopwatches(device: str) -> Iterator[dict[str, float]]:
    """Times the parts of every ``attend`` in the block; waits for the device around each, so the total is not exact."""
    spent = {"prefix": 0.0, "windows": 0.0, "merge": 0.0, "copies": 0.0}
    copy = attention._prefix_first

    def timed(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        result: list[Any] = []
        spent[part] += seconds(lambda: result.append(function(*arguments)), device)
        return result[0]

    class TimedKernel:
        def __init__(self, *arguments: Any) -> None:
            self.kernel = select(*arguments)
            self.part = "prefix"

        def attention(self, *arguments: Any) -> Any:
            part, self.part = self.part, "windows"
            return timed(part, self.kernel.attention, *arguments)

    with patch.multiple(
        attention,
        select=TimedKernel,
        merge_=lambda *arguments: timed("merge", merge_, *arguments),
        _prefix_first=lambda *arguments: timed("copies", copy, *arguments),
    ):
        yield spent


def processors_busy() -> float:
    """Processor seconds that all programs of this machine have used since it started; 0 where it cannot be told."""
    if not Path("/proc/stat").exists():
        return 0.0
    user, nice, system, _idle, _wait, interrupts, soft, stolen, *_ = Path("/proc/stat").read_text().split()[1:]
    ticks = sum(map(int, (user, nice, system, interrupts, soft, stolen)))
    return ticks / os.sysconf("SC_CLK_TCK")


def interleaved(
    sides: dict[str, Callable[[], Tensor]], arguments: argparse.Namespace
) -> tuple[dict[str, list[float]], bool]:
    """Seconds of every side, taken in turns, and whether other programs left the processors alone meanwhile."""
    every: dict[str, list[float]] = {name: [] for name in sides}
    quiet: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()  # warms up
    end = time.perf_counter() + arguments.patience
    while min(map(len, quiet.values())) < arguments.repeats:
        if time.perf_counter() > end and min(map(len, every.values())) >= arguments.repeats:
            return every, False
        for name, side in sides.items():
            others = processors_busy() - time.process_time()
            every[name].append(seconds(side, arguments.device))
            others = processors_busy() - time.process_time() - others
            if others < 0.05 * every[name][-1] * (os.cpu_count() or 1) + 0.02:  # the machine counts in 0.01 s
                quiet[name].append(every[name][-1])
    return quiet, True


def planning(frames: int, patches: int) -> tuple[float, float]:
    """Median seconds of planning a denoising step for all layers: with new anchors, and with known ones."""
    layout = TokenLayout(FrameGrid(frames, patches))

    def step_times() -> list[float]:
        steps = range(plan(frames, reference_frames=REFERENCE_FRAMES).keyframe_interval)
        return [
            seconds(lambda: cascade(plan(frames, reference_frames=REFERENCE_FRAMES, step=step), layout), "cpu")  # noqa: B023
            for step in steps
        ]

    new, known = [], []
    for _ in range(9):
        _pattern.cache_clear()
        cascade.cache_clear()
        new += step_times()
        known += step_times()
    return statistics.median(new), statistics.median(known)


def measure(frames: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers for one length."""
    device, layout = arguments.device, TokenLayout(FrameGrid(frames, arguments.patches))
    pattern = plan(frames, reference_frames=REFERENCE_FRAMES)
    noise = torch.Generator().manual_seed(frames)
    shape = (1, layout.q_tokens, arguments.heads, arguments.head_size)
    q, k, v = (torch.randn(shape, generator=noise).to(device, getattr(torch, arguments.dtype)) for _ in range(3))
    sides: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: dense(q, k, v),
        "attend": lambda: attend(q, k, v, pattern, layout),
    }
    if not (arguments.no_loop or pattern.is_dense):
        sides["loop"] = lambda: loop_over_frames(q, k, v, pattern)
        torch.testing.assert_close(sides["attend"](), sides["loop"](), rtol=0.02, atol=0.01)

    times, quiet = interleaved(sides, arguments)
    with stopwatches(device) as parts:
        watched = [seconds(sides["attend"], device) for _ in range(arguments.repeats)]
    new, known = planning(frames, arguments.patches)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["attend"] / medians["dense"]
    return {
        "frames": frames,
        "tokens": layout.q_tokens,
        "interval": pattern.keyframe_interval,
        "density": pattern.density,
        "seconds": medians,
        "ratio": ratio,
        "overhead": ratio / pattern.density,
        "parts": {name: value / sum(watched) for name, value in parts.items()},
        "memory": {
            "copies_of_qkv": sum(x.nbytes for x in (q, k, v)),
            "log_sum_exps": 2 * 4 * arguments.heads * layout.q_tokens,
            **{name: peak_memory(side, device) - q.nbytes for name, side in sides.items()},
        },
        "planning": {"new": new, "known": known},
        "quiet": quiet,
    }


def report(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The results as two tables and a verdict."""
    yield "| T | density | dense | attend | loop | ratio | overhead |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        loop = f"{row['seconds']['loop']:.3f} s" if "loop" in row["seconds"] else "-"
        yield (
            f"| {row['frames']} | {row['density']:.3f} | {row['seconds']['dense']:.3f} s | "
            f"{row['seconds']['attend']:.3f} s | {loop} | {row['ratio']:.3f} | {row['overhead']:.3f}"
            f"{'' if row['quiet'] else ' (other programs ran)'} |"
        )
    yield ""
    yield "| T | prefix | windows | merge | copies | extra memory | of the bound | new anchors | known anchors |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        parts = " | ".join(f"{row['parts'][part]:.1%}" for part in ("prefix", "windows", "merge", "copies"))
        memory = row["memory"]
        allowed = memory["copies_of_qkv"] + memory["log_sum_exps"]
        yield (
            f"| {row['frames']} | {parts} | {memory['attend'] / 2**20:.1f} MiB | {memory['attend'] / allowed:.0%} | "
            f"{row['planning']['new'] * 1e3:.3f} ms | {row['planning']['known'] * 1e3:.3f} ms |"
        )
    long = [row["overhead"] for row in rows if row["frames"] >= 41]
    if long:
        verdict = "within" if max(long) <= OVERHEAD_LIMIT else "ABOVE"
        yield f"\nLargest overhead from T=41 on: {max(long):.3f}, {verdict} {OVERHEAD_LIMIT}, the limit on a CPU."


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "processor": f"{model}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "accelerator": torch.cuda.get_device_name() if arguments.device == "cuda" else None,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
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

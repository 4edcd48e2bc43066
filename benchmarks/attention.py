"""Times ``lvsa_core.attend`` against dense attention, in one process, the runs of all sides interleaved.

Run it from the repository with the package installed:

    python benchmarks/attention.py
    python benchmarks/attention.py --dtype bfloat16 --frames 41,81 --repeats 9 --json results.json
    python benchmarks/attention.py --device cuda --dtype bfloat16 --patches 1560 --heads 40

The shapes are Wan's (head size 128, training horizon 21 latent frames) scaled to the machine: by default 2 heads and
195 tokens a frame, an eighth of 480x832. For every number of latent frames it prints

- the medians of dense attention, of ``attend``, of the same in two groups of heads, as where memory is short, with
  boosted anchors, with anchors at remapped positions, and with each window's keys copied instead of read in place
  (gathered), and of the method as it is usually written: a loop over frames that concatenates each frame's keys;
- /dense: a time over that of dense attention; overhead: the same over the pattern's density, 1 if only the attended
  pairs cost time; peak memory beyond inputs and output, also as a share of the bound, which is one copy of Q, K and V
  and the log-sum-exps; the difference of some rows from a float32 computation;
- where the time of ``attend`` goes;
- what planning costs for a denoising step that sees new anchors, for one that sees known ones, and for the mean of 50.

Last comes the host's time for a layer: processor time of the operator that the engine's layers call, and of ``attend``
alone, on small tensors and with kernels that compute nothing.

A run counts only if other programs got less than 5 % of the processors meanwhile. Where that leaves too few runs within
``--patience``, all of them count and the row is marked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import root  # noqa: F401
import torch
from layer import GROUPS, Inputs, describe, in_groups, measure
from models import MODELS
from report import Panel, Results, draw, numbers, parser_of, say
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, plan
from lvsa_core.attention import compute
from lvsa_core.call import lvsa_attend, register, running
from lvsa_core.checks import check_call
from lvsa_core.facts import WAN_THETA, wan_temporal_channels
from lvsa_core.kernels import select
from lvsa_core.kernels.prefix_window import GatheredWindow, VarlenWindow
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_core.memory import HeadGroups
from lvsa_core.positions import Remap, TemporalAxis
from lvsa_core.tables import Tables
from lvsa_vllm_omni.measure import dense, timing
from lvsa_vllm_omni.measure.machine import facts

REFERENCE_FRAMES = MODELS["wan-1.3b"].horizon
#: On the CPU, from 41 latent frames on: the overhead, and the merge's share of the time.
OVERHEAD_LIMIT, MERGE_LIMIT = 1.12, 0.05
#: The most of the time in two groups of heads over that of all heads at once.
GROUPS_LIMIT = 1.01
#: And of the time with anchors at other positions, and with boosted ones, over that of plain ones, at that length.
OPTIONS_FRAMES, OPTIONS_LIMITS = 81, {"remap": 1.10, "boost": 1.01}
#: Seconds of planning a step, whatever its anchors, and of the host for a layer.
PLANNING_LIMIT, HOST_LIMIT = 0.3e-3, 150e-6


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--frames", type=numbers(), default=[21, 41, 81, 121], help="latent frames")
    parser.add_argument("--patches", type=int, default=195, help="tokens of a latent frame")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each side; the median counts")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for quiet runs of one length")
    parser.add_argument("--no-loop", action="store_true", help="leave out the loop over frames, which is slow")
    return parser.parse_args()


class NoKernel(VarlenWindow):
    """Computes nothing, so that the host's own work is left."""

    name = family = "none"
    merge = staticmethod(lambda out, lse, other, other_lse: None)

    def __init__(self, q: Tensor) -> None:
        self.out = torch.empty_like(q), torch.zeros(len(q), q.shape[2], q.shape[1])

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """It always runs."""
        return None

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """What was made before."""
        return self.out

    def varlen(self, q: Tensor, k: Tensor, v: Tensor, groups: Tables, scale: float) -> tuple[Tensor, Tensor]:
        """Likewise."""
        return self.out[0][0], self.out[1][0]


class Layer:
    """As the engine's: see :class:`lvsa_core.call.SparseLayer`."""

    def sparse(self, call: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, text: Any, scale: Any) -> Tensor:
        """Attention by the running call, which is a function here."""
        return call(q, k, v, scale=scale)


def host_seconds(repeats: int, calls: int = 300) -> dict[str, float]:
    """Processor seconds of a layer, on the host alone: the median of ``repeats`` times that many calls."""
    layout, pattern = TokenLayout(FrameGrid(81, 4)), plan(81, reference_frames=REFERENCE_FRAMES)
    q, k, v = torch.randn(3, 1, layout.q_tokens, 2, 8).bfloat16()
    kernel, groups = NoKernel(q), HeadGroups()

    def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        select(SdpaKernel.name, q.device, q.dtype, q.shape[3])  # which finds a kernel as every call does
        return compute(kernel, q, k, v, pattern, layout, check_call(q, k, v, pattern, layout, scale), groups)

    layer = Layer()
    known, token = register(layer), running.set(attention)
    sides = {
        "the operator": lambda: [lvsa_attend(q, k, v, None, None, 0.35, known) for _ in range(calls)],
        "attend": lambda: [attention(q, k, v, 0.35) for _ in range(calls)],
    }
    with torch.inference_mode():
        taken, _ = timing.interleaved(sides, q.device, repeats, clock=timing.host_seconds)
    running.reset(token)
    return {name: each / calls for name, each in timing.medians(taken).items()}


class GatheredSdpa(GatheredWindow, SdpaKernel):
    """PyTorch's kernels on copied windows, a few frames at a time."""


def attended(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
    """What the product runs."""
    return attend(q, k, v, pattern, layout, scale=scale)


def loop(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
    """The pattern as it is usually written: one call a frame, on the concatenated keys that it attends to."""
    queries, keys, values = (x.unflatten(1, (pattern.frames, -1)) for x in (q, k, v))
    out = []
    for frame in range(pattern.frames):
        seen = pattern.attended(frame)
        frame_keys, frame_values = (torch.cat([x[:, key] for key in seen], 1) for x in (keys, values))
        out.append(dense.pytorch(queries[:, frame], frame_keys, frame_values, scale))
    return torch.cat(out, 1)


def case(frames: int, arguments: argparse.Namespace, noise: torch.Generator) -> dict[str, Any]:
    """All numbers for one length."""
    layout = TokenLayout(FrameGrid(frames, arguments.patches))
    heads, dtype = arguments.heads, getattr(torch, arguments.dtype)
    inputs = Inputs(layout, heads, heads, arguments.head_size, dtype, noise)
    kernel: Any = select("auto", noise.device, dtype, arguments.head_size).kernel
    pattern, kernels = plan(frames, reference_frames=REFERENCE_FRAMES), {"attend": attended}
    axis = TemporalAxis.of(wan_temporal_channels(arguments.head_size), WAN_THETA)
    patterns = {
        "boost": replace(pattern, anchor_boost=1.5),
        "remap": replace(pattern, remap=Remap(REFERENCE_FRAMES, axis)),
    }
    if not pattern.is_dense:
        kernels |= {GROUPS: partial(in_groups, kernel), **dict.fromkeys(patterns, attended)}
        kernels |= {"gathered": GatheredSdpa().attend}
        kernels |= {} if arguments.no_loop else {"loop": loop}
    chosen = None if pattern.is_dense else kernel
    runs = (arguments.repeats, arguments.repeats)
    return {"model": "a layer", "waited": arguments.patience > 0} | measure(
        inputs, pattern, REFERENCE_FRAMES, kernels, chosen, {"PyTorch": dense.pytorch}, 0, runs, arguments.patience,
        patterns,
    )  # fmt: skip


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Whether what was measured is within the limits."""
    long = [row for row in rows if row["frames"] >= 41]
    limits: list[tuple[str, str, float, Callable[[dict[str, Any]], float]]] = [
        ("overhead", "", OVERHEAD_LIMIT, lambda row: row["kernels"]["attend"]["overhead"]),
        (
            "time of two groups over that of all heads",
            "",
            GROUPS_LIMIT,
            lambda row: row["kernels"][GROUPS]["ratio"] / row["kernels"]["attend"]["ratio"],
        ),
        ("share of the merge", "", MERGE_LIMIT, lambda row: row["parts"]["merge"] / sum(row["parts"].values())),
        ("planning of new anchors", " s", PLANNING_LIMIT, lambda row: row["planning"]["new"]),
    ]
    for name, unit, limit, value in limits:
        if long:
            largest = max(map(value, long))
            verdict = "within" if largest <= limit else "ABOVE"
            yield f"Largest {name} from T=41 on: {largest:.3g}{unit}, {verdict} {limit:g}{unit}, the CPU's limit."
    for row in rows:
        for name, limit in OPTIONS_LIMITS.items() if row["frames"] == OPTIONS_FRAMES else ():
            ratio = row["kernels"][name]["ratio"] / row["kernels"]["attend"]["ratio"]
            verdict = "within" if ratio <= limit else "ABOVE"
            yield f"Time with {name} over that without, T={row['frames']}: {ratio:.3f}, {verdict} {limit:g}."


def main() -> None:
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    machine = facts(device, arguments.commit) | dict(
        kernel=str(select("auto", device, getattr(torch, arguments.dtype), arguments.head_size)),
        shapes=f"{arguments.dtype}, {arguments.heads} heads of {arguments.head_size}, "
        f"{arguments.patches} tokens a frame",
        runs=f"medians of {arguments.repeats}, interleaved",
        load_before=round(os.getloadavg()[0], 2),
    )  # fmt: skip
    results = Results(arguments.json, machine)
    noise = torch.Generator(device).manual_seed(0)
    for frames in arguments.frames:
        results.rows.append(case(frames, arguments, noise))
        say(*describe(results.rows[-1]))
        results.save()
    host = host_seconds(arguments.repeats)
    results.save(host=host)
    say("The host's time for a layer: " + ", ".join(f"{1e6 * taken:.0f} us {name}" for name, taken in host.items()))
    say(*verdicts(results.rows))
    most = host["the operator"]
    say(f"The host: {1e6 * most:.0f} us, {'within' if most <= HOST_LIMIT else 'ABOVE'} {1e6 * HOST_LIMIT:.0f} us.")
    lines = {
        name: [(row["frames"], row["kernels"][name]["seconds"]) for row in results.rows if name in row["kernels"]]
        for name in ("attend", GROUPS, "gathered", "loop")
    }
    lines["dense"] = [(row["frames"], row["dense"]["PyTorch"]) for row in results.rows]
    panel = Panel({name: points for name, points in lines.items() if points}, {"xlabel": "latent frames"})
    draw(arguments.figure, [panel])


if __name__ == "__main__":
    main()

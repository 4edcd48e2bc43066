"""Times ``lvsa_core.attend`` against dense attention, in one process, the runs of all sides interleaved.

Run it from the repository with the package installed:

    python benchmarks/attention.py
    python benchmarks/attention.py --dtype bfloat16 --frames 41,81 --repeats 9 --json results.json
    python benchmarks/attention.py --device cuda --dtype bfloat16 --patches 1560 --heads 40

The shapes are Wan's (head size 128, training horizon 21 latent frames) scaled to the machine: by default 2 heads and
195 tokens a frame, an eighth of 480x832. For every number of latent frames it prints

- the medians of dense attention, of ``attend``, of the same with each window's keys copied instead of read in place
  (gathered), and of the method as it is usually written: a loop over frames that concatenates each frame's keys;
- /dense: a time over that of dense attention; overhead: the same over the pattern's density, 1 if only the attended
  pairs cost time; peak memory beyond inputs and output, also as a share of the bound, which is one copy of Q, K and V
  and the log-sum-exps; the difference of some rows from a float32 computation;
- where the time of ``attend`` goes;
- what planning costs for a denoising step that sees new anchors, for one that sees known ones, and for the mean of 50.

A run counts only if other programs got less than 5 % of the processors meanwhile. Where that leaves too few runs within
``--patience``, all of them count and the row is marked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from layer import Inputs, describe, measure
from models import MODELS
from report import Panel, Results, draw, numbers, parser_of, say
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, plan
from lvsa_core.kernels import select
from lvsa_core.kernels.prefix_window import GatheredWindow
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_vllm_omni.measure import dense
from lvsa_vllm_omni.measure.machine import facts

REFERENCE_FRAMES = MODELS["wan-1.3b"].horizon
#: On the CPU, from 41 latent frames on: the overhead, and the merge's share of the time.
OVERHEAD_LIMIT, MERGE_LIMIT = 1.12, 0.05
#: Seconds of planning a step, whatever its anchors.
PLANNING_LIMIT = 0.3e-3


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
    pattern, kernels = plan(frames, reference_frames=REFERENCE_FRAMES), {"attend": attended}
    if not pattern.is_dense:
        kernels["gathered"] = GatheredSdpa().attend
        kernels |= {} if arguments.no_loop else {"loop": loop}
    kernel: Any = select("auto", noise.device, dtype, arguments.head_size).kernel
    chosen = None if pattern.is_dense else kernel
    runs = (arguments.repeats, arguments.repeats)
    return {"model": "a layer", "waited": arguments.patience > 0} | measure(
        inputs, pattern, REFERENCE_FRAMES, kernels, chosen, {"PyTorch": dense.pytorch}, 0, runs, arguments.patience
    )


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Whether what was measured is within the limits."""
    long = [row for row in rows if row["frames"] >= 41]
    limits: list[tuple[str, str, float, Callable[[dict[str, Any]], float]]] = [
        ("overhead", "", OVERHEAD_LIMIT, lambda row: row["kernels"]["attend"]["overhead"]),
        ("share of the merge", "", MERGE_LIMIT, lambda row: row["parts"]["merge"] / sum(row["parts"].values())),
        ("planning of new anchors", " s", PLANNING_LIMIT, lambda row: row["planning"]["new"]),
    ]
    for name, unit, limit, value in limits:
        if long:
            largest = max(map(value, long))
            verdict = "within" if largest <= limit else "ABOVE"
            yield f"Largest {name} from T=41 on: {largest:.3g}{unit}, {verdict} {limit:g}{unit}, the CPU's limit."


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
    say(*verdicts(results.rows))
    lines = {
        name: [(row["frames"], row["kernels"][name]["seconds"]) for row in results.rows if name in row["kernels"]]
        for name in ("attend", "gathered", "loop")
    }
    lines["dense"] = [(row["frames"], row["dense"]["PyTorch"]) for row in results.rows]
    panel = Panel({name: points for name, points in lines.items() if points}, {"xlabel": "latent frames"})
    draw(arguments.figure, [panel])


if __name__ == "__main__":
    main()

"""Bytes and time of one layer's attention on several processes: LVSA's exchange, all-gather and ring, in one run.

Run it from the repository with the package installed:

    python benchmarks/communication.py
    python benchmarks/communication.py --ranks 2,4,8 --patches 64 --json results.json
    python benchmarks/communication.py --device cuda --dtype bfloat16 --patches 1560 --heads 40    # one GPU a rank

The shape is Wan's (head size 128, training horizon 21 latent frames) with fewer heads and tokens. The processes are
joined over gloo on the CPU and over NCCL on GPUs. Each holds an equal part of the sequence and computes its rows by

- lvsa: ``sharded_attend``, which gets the anchors and the windows' frames that a rank lacks, then computes; with
  overlap it computes on the anchors that the rank has meanwhile;
- all-gather: every rank gathers all K and V, then LVSA on its rows, as the engine's AllGather-KV has it;
- ring: dense attention, K and V passed from rank to rank while the rank computes on those it has, joined by their
  log-sum-exps.

For every number of ranks it prints the median time of each, over the slowest rank of each run; the same of the
transfers alone; and the bytes that a rank sends, counted where they are sent or, for all-gather, (ranks - 1) times its
part. Where Linux counts what a process writes, to sockets too, its count stands below the table. The runs of all ways
are interleaved, and all ranks start a run together. The outputs of lvsa and all-gather must be equal, and those of ring
and PyTorch's dense attention, or there is no table.

On a CPU the ranks share the processors and the memory that they send through: there the bytes count, not the times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import root  # noqa: F401
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from communication_ways import HEAD_SIZE, REFERENCE_FRAMES, WAYS, Layer
from report import Panel, Results, draw, milliseconds, numbers, parser_of, say, table

from lvsa_core import FrameGrid, plan
from lvsa_core.kernels import select
from lvsa_core.sharded.exchange import Shards
from lvsa_vllm_omni.measure.machine import facts


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--ranks", type=numbers(), default=[2, 4], help="numbers of processes; default: 2,4")
    parser.add_argument("--frames", type=int, default=81, help="latent frames")
    parser.add_argument("--patches", type=int, default=128, help="tokens of a latent frame")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way; the median counts")
    parser.add_argument("--step", type=int, default=0, help="denoising step, which moves the anchors")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    try:
        for ranks in arguments.ranks:
            Shards(FrameGrid(arguments.frames, arguments.patches), ranks)
    except ValueError as error:
        parser.error(f"{error}; choose other --ranks, --frames or --patches")
    if arguments.device == "cuda" and (found := torch.cuda.device_count()) < max(arguments.ranks):
        parser.error(f"--device cuda needs a GPU for each of {max(arguments.ranks)} ranks, PyTorch finds {found}")
    return arguments


def _rank(rank: int, ranks: int, folder: str, arguments: argparse.Namespace) -> None:
    """One process; it leaves what it found in the folder."""
    device = torch.device(f"cuda:{rank}" if arguments.device == "cuda" else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(_threads(ranks))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    try:
        found = Layer(arguments, device).measure(arguments.repeats)
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _threads(ranks: int) -> int:
    return max(1, (os.cpu_count() or 1) // ranks)


def measure(ranks: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one number of ranks.

    Raises:
        SystemExit: if two ways that must give the same do not.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (ranks, folder, arguments), nprocs=ranks)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    apart = {pair: max(one["apart"][pair] for one in found) for pair in found[0]["apart"]}
    allowed = 1e-4 if arguments.dtype == "float32" else 3e-2
    if not all(value <= allowed for value in apart.values()):
        raise SystemExit(f"error: on {ranks} ranks outputs that must be equal differ by {apart}, allowed is {allowed}")
    shards = Shards(FrameGrid(arguments.frames, arguments.patches), ranks)
    pattern = plan(arguments.frames, reference_frames=REFERENCE_FRAMES, step=arguments.step)
    slowest = {
        name: [max(run) for run in zip(*(one["times"][name] for one in found), strict=True)]
        for name in found[0]["times"]
    }
    return {
        "ranks": ranks,
        "density": pattern.density,
        "tokens": shards.tokens,
        "seconds": {name: statistics.median(times) for name, times in slowest.items()},
        "fastest_and_slowest": {name: [min(times), max(times)] for name, times in slowest.items()},
        "sent": {
            name: {
                "mean": statistics.mean(one["sent"][name] for one in found),
                "most": max(one["sent"][name] for one in found),
                "written": statistics.mean(one["written"][name] for one in found),
            }
            for name in WAYS
        },
        "apart": apart,
    }


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The results as a table."""
    cells = []
    for row in rows:
        times, sent = row["seconds"], row["sent"]
        for name in WAYS:
            alone, least = times.get(f"{name} transfers"), sent["lvsa"]["mean"]
            cells.append([
                str(row["ranks"]), name, "dense" if name == "ring" else "sparse", milliseconds(times[name]),
                f"{times[name] / times['lvsa']:.2f}", milliseconds(alone) if alone else "",
                f"{sent[name]['mean'] / 1e6:.1f} MB", f"{sent[name]['most'] / 1e6:.1f} MB",
                f"{sent[name]['mean'] / least:.2f}" if least else "-",
            ])  # fmt: skip
    header = "ranks | way | attention | time | / lvsa | transfers alone | sent by a rank | at most | / lvsa"
    yield from table(header, cells)
    for row in rows:
        apart = ", ".join(f"{pair} by {value:.1e}" for pair, value in row["apart"].items())
        yield f"{row['ranks']} ranks, density {row['density']:.3f}; outputs differ at most: {apart}"
        if all(sent["written"] >= sent["mean"] for sent in row["sent"].values()):  # not through shared memory or NCCL
            more = max(sent["written"] / sent["mean"] - 1 for sent in row["sent"].values() if sent["mean"])
            yield f"{row['ranks']} ranks: Linux counts at most {more:.1%} more bytes written, which are gloo's headers"


def panels(rows: list[dict[str, Any]]) -> list[Panel]:
    """Times and bytes of the ways, by the number of ranks."""
    times = {name: [(row["ranks"], row["seconds"][name]) for row in rows] for name in WAYS}
    sent = {name: [(row["ranks"], row["sent"][name]["mean"] / 1e6) for row in rows] for name in WAYS}
    return [
        Panel(times, {"xlabel": "ranks", "ylabel": "seconds a layer"}, bars=True),
        Panel(sent, {"xlabel": "ranks", "ylabel": "MB sent by a rank"}, bars=True),
    ]


def main() -> None:
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    machine = facts(device, arguments.commit) | dict(
        processors=os.cpu_count(), backend="nccl" if device.type == "cuda" else "gloo",
        kernel=str(select("auto", device, getattr(torch, arguments.dtype), HEAD_SIZE)),
        shapes=f"{arguments.dtype}, {arguments.frames} latent frames of {arguments.patches} tokens, "
        f"{arguments.heads} heads of {HEAD_SIZE}, step {arguments.step}",
        threads_a_rank=_threads(max(arguments.ranks)) if device.type == "cpu" else None,
        runs=f"medians of {arguments.repeats} over the slowest rank, interleaved",
        load_before=round(os.getloadavg()[0], 2),
    )  # fmt: skip
    results = Results(arguments.json, machine)
    for ranks in arguments.ranks:
        results.rows.append(measure(ranks, arguments))
        results.save()
        say(f"{ranks} ranks are measured")
    say(*lines(results.rows))
    draw(arguments.figure, panels(results.rows))


if __name__ == "__main__":
    main()

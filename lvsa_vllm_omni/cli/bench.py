"""`lvsa bench`: the attention of one layer and the linear layers of its block, timed on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lvsa_vllm_omni.cli.request_options import add_request_options

DESCRIPTION = (
    "Time dense attention, LVSA and the linear layers of one block of a model on this machine, after a check that "
    "LVSA's result is right, and tell what that makes end to end."
)
EXAMPLE = "lvsa bench --preset wan2.1-14b --frames 161,321 --json results.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `lvsa bench`."""
    add_request_options(parser, "lengths in video frames, separated by commas")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32"], help="default: bfloat16, float32 on a CPU"
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="kernel of LVSA: auto, flash, flashinfer, sdpa or one by name"
    )
    parser.add_argument(
        "--heads", type=int, metavar="N", help="measure so many heads (default: the model's, on a CPU 2)"
    )
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="runs of each side; the median counts")
    parser.add_argument(
        "--patience",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds to wait on a CPU, for each length, for runs that other programs do not disturb (default: 30)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")


def run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of `lvsa bench`; see :func:`lvsa_vllm_omni.cli.bench_run.measure`."""
    from lvsa_vllm_omni.cli.bench_run import measure

    return measure(options)

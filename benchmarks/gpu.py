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
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lvsa_core.kernels import Kernel, KernelUnavailable, select
from lvsa_vllm_omni.measure.timing import copy_rate, facts, matmul_rate

sys.path.append(str(Path(__file__).parent))  # for when this file is not run as a script
from gpu_cases import DTYPE, MODELS, Shape
from gpu_kernels import COMPARED, check_dense, check_kernels, first_line, measure
from gpu_report import draw, print_checks, report, verdict

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


def auto(device: torch.device) -> str:
    """What ``attend`` would run by itself, and what it passes over."""
    try:
        return str(select("auto", device, DTYPE, 128))
    except KernelUnavailable as error:
        return f"nothing: {error}"


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

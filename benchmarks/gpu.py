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
  the time of the fastest kernel goes, and what planning a denoising step costs the host;
- the largest difference of a few rows of the timed shape from a float32 computation.

The most important cases come first. The first one always runs; others that would not end within ``--budget`` are named
and not run. The JSON file is written after every case. The exit status is 1 if a kernel that says it is available gives
wrong numbers, 2 if nothing can be run.

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
import random
import sys
from typing import Any

import torch
from layer import Inputs, check_dense, check_kernels, describe, first_line, measure
from models import MODELS, Model
from report import Panel, Results, draw, names, numbers, parser_of, say

from lvsa_core.kernels import KERNELS, Kernel, KernelUnavailable, select, selftest
from lvsa_vllm_omni.measure.timing import copy_rate, matmul_rate

DTYPE = torch.bfloat16
FRAMES = {"wan-14b-720p": [41]}  # of the others all of ALL_FRAMES
ALL_FRAMES = [81, 41, 121, 21]
FIRST = ("wan-14b", "wan-1.3b")  # with all their lengths but the dense one
CASE_SECONDS, LEAST_SECONDS = 20.0, 15.0  # that the runs of a case take, and that a case needs to be begun
RUNS = (5, 15)  # of each side, as many as fit
TARGET, TARGET_FRAMES = 1.10, 41


def parse_arguments() -> argparse.Namespace:
    """Command line; names are checked here."""
    families = list(dict.fromkeys(kernel.family for kernel in KERNELS.values()))
    parser = parser_of(__doc__)
    parser.add_argument("--models", type=names(MODELS), default=[*MODELS], help=f"default: {','.join(MODELS)}")
    parser.add_argument("--frames", type=numbers(), help="latent frames for all models; default: 21,41,81,121")
    parser.add_argument("--kernels", type=names([*families, *KERNELS]), default=families, help="families or names")
    parser.add_argument("--budget", type=float, default=420, metavar="SECONDS", help="end within that")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="shrunk shapes, two runs each")
    return parser.parse_args()


def ordered_cases(models: list[str], frames: list[int] | None) -> list[tuple[str, int]]:
    """Models and numbers of latent frames, the most important first."""
    cases = [(name, t) for name in models for t in frames or FRAMES.get(name, ALL_FRAMES)]
    return sorted(cases, key=lambda case: (case[1] <= MODELS[case[0]].horizon, case[0] not in FIRST))


def available(asked: list[str], device: torch.device) -> tuple[list[Kernel], dict[str, str]]:
    """The kernels asked for that say they run here, in the order of ``auto``, and what the others say."""
    kernels = [kernel for kernel in KERNELS.values() if {kernel.name, kernel.family} & {*asked}]
    reasons = {kernel.name: kernel.available(device, DTYPE, 128) for kernel in kernels}
    return [kernel for kernel in kernels if reasons[kernel.name] is None], {k: r for k, r in reasons.items() if r}


def auto(device: torch.device) -> str:
    """What ``attend`` would run by itself, and what it passes over."""
    try:
        return str(select("auto", device, DTYPE, 128))
    except KernelUnavailable as error:
        return f"nothing: {error}"


class Bench:
    """One run of the command."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.arguments, self.device = arguments, device
        self.seed = random.SystemRandom().randrange(2**31)
        random.seed(self.seed)
        self.noise = torch.Generator(device).manual_seed(self.seed)
        size, nbytes = (256, 2**22) if arguments.tiny else (8192, 2**32)
        self.rates = {"flop": matmul_rate(device, DTYPE, size), "bytes": copy_rate(device, nbytes)}
        measured = f"{self.rates['flop'] / 1e12:.4g} TFLOP/s in {DTYPE} products, {self.rates['bytes'] / 1e12:.3g} TB/s"
        more = {"measured": measured, "rates": self.rates, "seed": self.seed, "tiny": arguments.tiny}
        self.results = Results(arguments, device, **more)

    def checked(self) -> tuple[list[Kernel], dict[str, Any]]:
        """The kernels and the dense attentions that run here and are right."""
        # About 4000 tokens each; 14B and 1.3B become the same.
        small = [*dict.fromkeys(self.small(MODELS[name]) for name in self.arguments.models)]
        kernels, reasons = available(self.arguments.kernels, self.device)
        checks = check_kernels(kernels, small, DTYPE, self.noise, self.seed)
        dense, dense_reasons = check_dense(small[0], DTYPE, self.noise)
        faulty = {row["kernel"] for row in checks if row["result"] != "right"}
        usable = [kernel for kernel in kernels if kernel.name not in faulty]
        self.results.save(
            checks=checks, unavailable=reasons, dense_unavailable=dense_reasons, auto=auto(self.device),
            usable=[kernel.name for kernel in usable], left_out=[],
        )  # fmt: skip
        say(*checked_lines(self.results.data))
        return usable, dense

    def small(self, model: Model) -> Model:
        """For the checks."""
        return model.small(5 if self.arguments.tiny else 2000 // model.horizon, 128)

    def case(self, name: str, frames: int, kernels: list[Kernel], dense: dict[str, Any]) -> None:
        """Time one case, if it fits into the budget."""
        left = self.arguments.budget - self.results.seconds
        if left < LEAST_SECONDS and (self.results.rows or self.arguments.budget <= 0):
            return self.left_out(name, frames, "over the budget")
        model = MODELS[name].small(4, 16) if self.arguments.tiny else MODELS[name]
        pattern = model.pattern(frames)
        timed = kernels[: 1 if pattern.is_dense else None]  # all do the same there
        try:
            case = measure(
                Inputs.of(model, model.layout(frames), DTYPE, self.noise), pattern, model.horizon,
                {kernel.name: kernel.attend for kernel in timed}, None if pattern.is_dense else kernels[0], dense,
                min(CASE_SECONDS, left / 2), (2, 2) if self.arguments.tiny else RUNS,
            )  # fmt: skip
        except Exception as error:  # such as no memory for the inputs: the other cases still count
            return self.left_out(name, frames, first_line(error))
        floor = max(case["flop"] / self.rates["flop"], case["moved_bytes"] / self.rates["bytes"])
        for row in case["kernels"].values():
            row["roofline"] = row["seconds"] / floor
        self.results.rows.append({"model": name, "floor": floor, **case})
        self.results.save()
        say(*describe(self.results.rows[-1]))

    def left_out(self, name: str, frames: int, reason: str) -> None:
        """Keep why a case is missing."""
        self.results.data["left_out"].append(f"{name} T={frames}: {reason}")
        self.results.save()


def checked_lines(results: dict[str, Any]) -> list[str]:
    """What runs here, what does not, and why."""
    allowed = selftest.TOLERANCE[DTYPE]
    lines = [f"Every kernel against reference_attend, {DTYPE}, random data; allowed is a difference of {allowed}:"]
    for name in dict.fromkeys(row["kernel"] for row in results["checks"]):
        rows = [row for row in results["checks"] if row["kernel"] == name]
        faults = [f"{row['result']} (off by {row['difference']}) on {row['layout']}" for row in rows
                  if row["result"] != "right"]  # fmt: skip
        largest = max((row["difference"] for row in rows if row["difference"] is not None), default=0)
        lines.append(f"{name}: {'; '.join(faults) or f'right on {len(rows)} layouts, off by at most {largest:.2g}'}")
    lines += [f"{name}: does not run here: {reason}" for name, reason in results["unavailable"].items()]
    lines += [f"dense {name}: left out: {reason}" for name, reason in results["dense_unavailable"].items()]
    return [*lines, f"auto takes: {results['auto']}"]


def verdict(rows: list[dict[str, Any]], hopper: bool) -> dict[str, Any]:
    """The largest overhead of the kernel that ran as first choice, and whether it is within the target."""
    judged = [
        (case["kernels"][case["chosen"]]["overhead"], f"{case['model']} T={case['frames']} {case['chosen']}")
        for case in rows
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


def panels(rows: list[dict[str, Any]]) -> list[Panel]:
    """Overheads by latent frames, a panel for each model."""
    found = []
    for model in dict.fromkeys(case["model"] for case in rows):
        lines: dict[str, list[tuple[float, float]]] = {}
        here = [case for case in rows if case["model"] == model and not case["dense_pattern"]]
        for case in sorted(here, key=lambda case: int(case["frames"])):
            for name, row in case["kernels"].items():
                lines.setdefault(name, []).append((case["frames"], row["overhead"]))
        options = {"title": model, "xlabel": "latent frames", "ylabel": "time / (density x dense)"}
        found.append(Panel(lines, options, levels=(1, TARGET)))
    return found


def main() -> int:
    arguments = parse_arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: PyTorch finds no CUDA device; try it out with --device cpu --tiny", file=sys.stderr)
        return 2
    if arguments.device == "cpu" and not arguments.tiny:
        print("error: a processor is too slow for these shapes: add --tiny", file=sys.stderr)
        return 2
    bench = Bench(arguments, torch.device("cuda:0" if arguments.device == "cuda" else "cpu"))
    results, (kernels, dense) = bench.results, bench.checked()
    wrong = any(row["result"] == "wrong" for row in results.data["checks"])
    if not (kernels and dense):
        print(f"error: nothing to time: no {'dense attention' if kernels else 'kernel'} runs here", file=sys.stderr)
        return 1 if wrong else 2
    for name, frames in ordered_cases(arguments.models, arguments.frames):
        bench.case(name, frames, kernels, dense)
    hopper = arguments.device == "cuda" and torch.cuda.get_device_capability(bench.device)[0] == 9
    results.save(verdict=verdict(results.rows, hopper))
    say(results.data["verdict"]["sentence"])
    if results.data["left_out"]:
        print(f"Left out: {', '.join(results.data['left_out'])}")
    print(f"{results.seconds:.0f} s in all")
    if results.rows:
        draw(arguments.figure, panels(results.rows))
    return int(wrong or not all(row["right"] for case in results.rows for row in case["kernels"].values()))


if __name__ == "__main__":
    sys.exit(main())

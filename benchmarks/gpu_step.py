"""Times whole denoising steps on one GPU, dense and with LVSA, in one command, without a network and under 8 minutes.

    PYTHONPATH=. python benchmarks/gpu_step.py --json gpu-step.json --figure gpu-step.png

The transformers are diffusers' classes of Wan 2.1 1.3B (30 blocks) and 14B (40) at 480x832 and of HunyuanVideo 1.5 (54)
at 480x848, in bfloat16. Their weights are random, which does not change the time. A step is two calls, with and without
the prompt, and the update of the latents. Text encoder and VAE, which run once a video, are not in it.

Dense runs on the fastest dense kernel that this card has at that shape (FlashAttention-3, cuDNN, PyTorch's flash
attention), LVSA as ``enable_lvsa`` has it, with another denoising step's anchors in every run. Up to the training
length LVSA leaves the dense layers as they are. The runs of both sides take turns after a warm-up. Of every case it
prints

- seconds a step of both sides, medians, and their ratio. The targets, against dense FlashAttention-3: at least 2.4 at
  321 frames and 3.4 at 481 for Wan 2.1 1.3B, and within 1 % up to the training length for all models;
- the share of self-attention: the time of one layer's by itself, times the layers, over that of the step;
- the largest memory that PyTorch held, weights included.

As in vLLM-Omni the blocks are compiled, all but the attention. Where that fails (it needs a C compiler), and with
``--no-compile``, they run as written, and it says so. The first case always runs; another one that would not end within
``--budget`` is named and not run: call again with its ``--models`` and ``--frames``. The JSON file is written after
every case. The exit status is 1 if a case failed (such as a model that does not fit into the memory), 2 if nothing can
be run.

It needs PyTorch 2.11, this repository, the wheel of diffusers (pure Python, 6 MB) with accelerate, transformers,
huggingface-hub, safetensors, numpy, regex, requests, httpx, filelock and Pillow, and for FlashAttention-3 (Hopper) the
wheel fa3-fwd (28 MB). Where a machine has all but diffusers and fa3-fwd, then on one with a network, with the other
machine's Python and platform:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_24_x86_64 \\
        --dest wheels fa3-fwd diffusers==0.40.0

and there, after copying the folder:

    pip install --no-index --no-deps --find-links wheels fa3-fwd diffusers

``--small`` tries all of it on a processor in seconds: 2 blocks, 4 tokens a frame, float32. Its times mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
from typing import Any

import torch
from layer import first_line
from models import MODELS, Model
from report import Panel, Results, draw, names, numbers, parser_of, say, table

from lvsa_core import Pattern
from lvsa_vllm_omni.measure.timing import matmul_rate

STEP_MODELS = ("wan-1.3b", "wan-14b", "hunyuan-video-1.5")
FRAMES = [81, 161, 321, 481]
#: These cases come first, of them the cheap ones, for slower cards. All of them fit into the default budget on an H200,
#: and each model is among them.
FIRST = [("wan-1.3b", 81), ("wan-1.3b", 161), ("wan-1.3b", 321), ("wan-1.3b", 481), ("hunyuan-video-1.5", 321),
         ("wan-14b", 161)]  # fmt: skip
START_SECONDS = 10.0  # for choosing the dense kernel, and for a model's weights and compilation
CASE_SECONDS, FEWEST, MOST = 12.0, 2, 15  # a case gets as many runs of each side as fit in this
LARGE = 40.0  # seconds of a step of both sides together, of which one run is enough
TARGETS = {("wan-1.3b", 321): 2.4, ("wan-1.3b", 481): 3.4}
EQUAL = 0.01  # allowed between the sides where both are dense


def parse_arguments() -> argparse.Namespace:
    """Command line; names are checked here."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--models", type=names(STEP_MODELS), default=[*STEP_MODELS], help=f"default: {','.join(STEP_MODELS)}"
    )
    parser.add_argument("--frames", type=numbers(), default=FRAMES, help="of video; default: 81,161,321,481")
    parser.add_argument("--budget", type=float, default=420, metavar="SECONDS", help="run no case that would not fit")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile blocks; default: on a GPU")
    parser.add_argument("--small", action="store_true", help="2 blocks of few tokens on the CPU, to see that it works")
    return parser.parse_args()


def ordered_cases(models: list[str], frames: list[int]) -> list[tuple[str, int]]:
    """Models and frames, the most important first."""
    cases = [(name, count) for name in models for count in frames]
    return sorted(cases, key=lambda case: FIRST.index(case) if case in FIRST else len(FIRST))


def expected_step(model: Model, frames: int, rate: float) -> float:
    """Seconds of a step of both sides together, at 70 % of the rate of matrix products."""
    latent = model.latent_frames(frames)
    dense, sparse = (model.flop(latent, pattern) for pattern in (Pattern(latent), model.pattern(latent)))
    return 2 * (dense + sparse) / (0.7 * rate)


def fewest(once: float) -> int:
    """Runs that a case gets at least, of a step that takes so many seconds on both sides together."""
    return 1 if once > LARGE else FEWEST


class Bench:
    """The cases of one run of the command, and what is known so far."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.arguments, self.device = arguments, device
        self.dtype = torch.float32 if arguments.small else torch.bfloat16
        self.compiled = not arguments.small if arguments.compile is None else arguments.compile
        seed = random.SystemRandom().randrange(2**31)
        self.noise = torch.Generator(device).manual_seed(seed)
        self.rate = matmul_rate(device, self.dtype, 256 if arguments.small else 8192)
        self.pace = 1.0  # seconds of the last case's steps over those expected
        self.name, self.transformer = "", None
        self.results = Results(arguments, device, flop_rate=self.rate, seed=seed, small=arguments.small)
        self.results.data["left_out"] = []
        self.failed = False

    def model(self, name: str) -> Model:
        """In this run."""
        return MODELS[name].small() if self.arguments.small else MODELS[name]

    def loaded(self, name: str) -> Any:
        """A transformer, in place of the one before."""
        from step import build

        if self.name != name:
            self.transformer = None
            torch.compiler.reset()  # what was compiled may hold the weights
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.name, self.transformer = name, build(self.model(name), self.device, self.dtype)
        return self.transformer

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return max(0.0, self.arguments.budget - self.results.seconds)

    def case(self, name: str, frames: int) -> None:
        """Run one case if it fits into the budget, or is the first."""
        from step import measure

        expected = expected_step(self.model(name), frames, self.rate)
        once = self.pace * expected
        least = START_SECONDS * (1 if name == self.name else 2) + fewest(once) * once
        first = not self.results.rows and self.arguments.budget > 0
        if least > self.left and not first:
            return self.left_out(
                name, frames, f"over the budget, it takes about {least:.0f} s of {self.left:.0f} s left"
            )
        most = FEWEST if self.arguments.small else MOST

        def repeats() -> int:
            return max(fewest(once), min(most, int(min(CASE_SECONDS, self.left) / once)))

        try:
            case = measure(self.model(name), self.loaded(name), frames, self.compiled, self.noise, repeats)
        except Exception as error:  # the other cases still count
            self.failed = True
            return self.left_out(name, frames, first_line(error))
        self.pace = sum(case["seconds"].values()) / expected
        case = {"model": name, **case}
        self.results.rows.append({**case, **dict(zip(("target", "met"), judge(case), strict=True))})
        self.results.save()
        say(*describe(self.results.rows[-1]))

    def left_out(self, name: str, frames: int, reason: str) -> None:
        """Say and keep why a case is missing."""
        self.results.data["left_out"].append(f"{name}, {frames} frames: {reason}")
        self.results.save()
        say(f"Left out: {self.results.data['left_out'][-1]}")


def judge(case: dict[str, Any]) -> tuple[str, bool | None]:
    """The target of a case in words, empty if it has none, and whether it is met; None: not judged."""
    if case["dense_pattern"]:
        wanted, met = f"within {EQUAL:.0%}", abs(case["ratio"] - 1) <= EQUAL
    elif least := TARGETS.get((case["model"], case["frames"])):
        wanted, met = f"at least {least}", case["ratio"] >= least
    else:
        return "", None
    return wanted, met if "FlashAttention-3" in case["layer_seconds"] else None


def describe(case: dict[str, Any]) -> list[str]:
    """What a case ran on."""
    pattern = "dense pattern" if case["dense_pattern"] else f"density {case['density']:.3f}"
    layers = [f"{name} {value * 1e3:.3g} ms a layer" for name, value in case["layer_seconds"].items()]
    layers += [f"{name} failed: {reason}" for name, reason in case["dense_failed"].items()]
    return [
        f"{case['model']}, {case['frames']} frames: T={case['latent_frames']}, {case['tokens']} tokens, {pattern}, "
        f"{case['layers']} blocks, {case['repeats']} runs; dense {case['seconds']['dense']:.4g} s a step, "
        f"LVSA {case['seconds']['lvsa']:.4g} s",
        f"dense takes {case['dense']}, LVSA {case['kernel']} ({'; '.join(layers)})",
        case["report"],
        "blocks compiled" if case["compiled"] else f"blocks not compiled: {case['not_compiled'] or 'not asked for'}",
    ]


def lines(cases: list[dict[str, Any]]) -> list[str]:
    """All cases, a line each."""
    found = []
    for case in cases:
        dense, sparse = (case["seconds"][side] for side in ("dense", "lvsa"))
        shares = ", ".join(f"{share:.0%}" for share in case["attention_share"].values())
        peaks = ", ".join(f"{peak / 2**30:.1f}" for peak in case["peak_bytes"].values())
        met = {True: "yes", False: "NO", None: "not judged"}[case["met"]] if case["target"] else ""
        found.append([
            case["model"], str(case["frames"]), f"{dense:.4g} s", f"{sparse:.4g} s", f"{case['ratio']:.3f}", shares,
            f"{peaks} GiB", case["target"], met,
        ])  # fmt: skip
    return table(
        "model | frames | dense | LVSA | ratio | attention: dense, LVSA | peak: dense, LVSA | target | met", found
    )


def panels(cases: list[dict[str, Any]]) -> list[Panel]:
    """Seconds a step by frames, a panel for each model, with the ratios."""
    found = []
    for model in dict.fromkeys(case["model"] for case in cases):
        here = sorted((case for case in cases if case["model"] == model), key=lambda case: int(case["frames"]))
        sides = {"dense": "dense", "LVSA": "lvsa"}
        drawn = {name: [(case["frames"], case["seconds"][side]) for case in here] for name, side in sides.items()}
        notes = [(case["frames"], case["seconds"]["dense"], f"{case['ratio']:.2f}x") for case in here]
        options = {"title": model, "xlabel": "frames", "ylabel": "seconds a step"}
        found.append(Panel(drawn, options, notes))
    return found


def main() -> int:
    arguments = parse_arguments()
    if not (arguments.small or torch.cuda.is_available()):
        print("error: PyTorch finds no CUDA device; try it out with --small", file=sys.stderr)
        return 2
    try:
        import step  # noqa: F401
    except ImportError as error:
        print(f"error: {error}; the first lines of --help say what to carry", file=sys.stderr)
        return 2
    bench = Bench(arguments, torch.device("cpu") if arguments.small else torch.device("cuda", 0))
    for name, frames in ordered_cases(arguments.models, arguments.frames):
        bench.case(name, frames)
    say(*lines(bench.results.rows), "", f"{bench.results.seconds:.0f} s in all")
    if bench.results.rows:
        draw(arguments.figure, panels(bench.results.rows))
    return int(bench.failed)


if __name__ == "__main__":
    sys.exit(main())

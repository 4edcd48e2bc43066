"""The cases of one run of ``gpu_step.py``: their order, the budget of time and memory, and the results so far."""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from typing import Any

import torch
from gpu_kernels import first_line
from gpu_step_report import describe
from gpu_step_timing import CASE_SECONDS, FEWEST, MOST, fewest, measure
from step_models import ARCHITECTURES, build
from step_parts import Transformer
from step_sizes import Architecture

from lvsa_core import plan
from lvsa_vllm_omni.measure.timing import facts, matmul_rate

FRAMES = (81, 161, 321, 481)
#: These cases come first, of them the cheap ones, for slower cards. All of them fit into the default budget on an H200,
#: and each model is among them.
FIRST = [("wan-1.3b", 81), ("wan-1.3b", 161), ("wan-1.3b", 321), ("wan-1.3b", 481), ("hunyuan-video-1.5", 321),
         ("wan-14b", 161)]  # fmt: skip
START_SECONDS = 10.0  # for choosing the dense kernel, and for a model's weights and compilation


def ordered_cases(models: list[str], frames: tuple[int, ...]) -> list[tuple[str, int]]:
    """Models and frames, the most important first."""
    cases = [(name, count) for name in models for count in frames]
    return sorted(cases, key=lambda case: FIRST.index(case) if case in FIRST else len(FIRST))


def expected_step(sizes: Architecture, frames: int, rate: float) -> float:
    """Seconds of a step of both sides together, at 70 % of the rate of matrix products."""
    density = plan(sizes.latent_frames(frames), reference_frames=sizes.horizon).density
    return 2 * (sizes.flop(frames, 1) + sizes.flop(frames, density)) / (0.7 * rate)


class Bench:
    """The cases of one run of the command, and what is known so far."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.start, self.arguments, self.device = time.monotonic(), arguments, device
        self.dtype, self.most = (torch.float32, FEWEST) if arguments.small else (torch.bfloat16, MOST)
        self.compiled = not arguments.small if arguments.compile is None else arguments.compile
        seed = random.SystemRandom().randrange(2**31)
        self.noise = torch.Generator(device).manual_seed(seed)
        self.rate = matmul_rate(device, self.dtype, 256 if arguments.small else 8192)
        self.pace = 1.0  # seconds of the last case's steps over those expected
        self.model: Transformer | None = None
        self.name, self.failed = "", False
        self.too_large: set[str] = set()  # models whose weights do not fit
        here = {**facts(device), "flop_rate": self.rate, "seed": seed, "small": arguments.small}
        self.results: dict[str, Any] = {"machine": here, "cases": [], "left_out": []}

    def sizes(self, name: str) -> Architecture:
        """Of a model, in this run."""
        return ARCHITECTURES[name].small() if self.arguments.small else ARCHITECTURES[name]

    def loaded(self, name: str) -> Transformer:
        """A model, in place of the one before."""
        shared = name in self.too_large
        if self.model is None or (self.name, self.model.shared) != (name, shared):
            self.model = None
            torch.compiler.reset()  # what was compiled may hold the weights
            self.free()
            self.name, self.model = name, build(self.sizes(name), self.device, self.dtype, shared)
        return self.model

    def free(self) -> None:
        """Give memory back to the device."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def case(self, name: str, frames: int) -> None:
        """Run one case if it fits into the budget; in a second attempt with shared weights, if memory runs out."""
        step = expected_step(self.sizes(name), frames, self.rate)
        once = self.pace * step
        needed = START_SECONDS * (1 if name == self.name else 2) + max(CASE_SECONDS, fewest(once) * once)
        needed += once / 2  # one forward of each side, for the shares
        left = max(0.0, self.arguments.budget - (time.monotonic() - self.start))
        if needed > left and not (self.arguments.small and left):
            return self.left_out(name, frames, f"over the budget, it takes about {needed:.0f} s of {left:.0f} s left")
        while True:
            again = False
            try:
                case = measure(name, frames, self.loaded(name), self.compiled, self.device, self.noise, self.most)
            except torch.OutOfMemoryError as error:
                reason, again = first_line(error), name not in self.too_large
            except Exception as error:  # the other cases still count
                reason = first_line(error)
            else:
                self.pace = sum(case["seconds"].values()) / step
                self.results["cases"].append(case)
                return print(f"\n{describe(case)}", flush=True)
            self.free()
            if not again:
                self.failed = True
                return self.left_out(name, frames, reason)
            self.too_large.add(name)

    def left_out(self, name: str, frames: int, reason: str) -> None:
        """Say and keep why a case is missing."""
        self.results["left_out"].append(f"{name}, {frames} frames: {reason}")
        print(f"\nLeft out: {self.results['left_out'][-1]}", flush=True)

    def save(self) -> None:
        """Write the results so far, if a file is wanted."""
        self.results["seconds"] = time.monotonic() - self.start
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps(self.results, indent=1) + "\n")

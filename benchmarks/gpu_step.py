"""Whole denoising steps, dense and with LVSA: the second part of ``gpu.py``, which this command runs alone.

    python benchmarks/gpu_step.py --models wan-1.3b,hunyuan-video-1.5

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

As in vLLM-Omni the blocks are compiled, all but the attention. Where that fails (it needs a C compiler) they run as
written, and it says so. With ``--device cpu --tiny`` they have 2 blocks, 4 tokens a frame and float32.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import root  # noqa: F401
import torch
from models import MODELS
from report import table
from sides import Job, Setting

from lvsa_core.kernels import KERNELS
from lvsa_vllm_omni.measure.apart import Answer, Result, first_line, one_by_one

SIDE = "step"
STEP_MODELS = ("wan-1.3b", "wan-14b", "hunyuan-video-1.5")
#: Models and latent frames, the most telling first; neighbours of one model share its weights and compiled blocks.
CASES = [("wan-1.3b", 21), ("wan-1.3b", 41), ("wan-1.3b", 81), ("wan-1.3b", 121), ("wan-14b", 41), ("wan-14b", 21)]
CASE_SECONDS, MOST = 12.0, 15
TARGETS = {("wan-1.3b", 321): 2.4, ("wan-1.3b", 481): 3.4}
EQUAL = 0.01  # allowed between the sides where both are dense


@dataclass(frozen=True)
class Steps:
    """Work of the cases of a model.

    Args:
        left_out: kernels that LVSA must not choose, such as those that have ended a process.
    """

    setting: Setting
    left_out: tuple[str, ...] = ()

    def __call__(self, jobs: Sequence[Job], answer: Answer) -> None:
        for name in self.left_out:
            KERNELS.pop(name, None)
        loaded: dict[str, Any] = {}
        noise = self.setting.noise()
        one_by_one(lambda job: self.measured(job, loaded, noise), jobs, answer)

    def measured(self, job: Job, loaded: dict[str, Any], noise: torch.Generator) -> Result:
        """All numbers of a case, and whether it meets its target."""
        try:
            from step import build, measure
        except ImportError as error:
            return {"result": "unavailable", "reason": f"{first_line(error)}; benchmarks/carry.txt says what it needs"}
        tiny = self.setting.tiny
        model = MODELS[job.model].small() if tiny else MODELS[job.model]
        if job.model not in loaded:
            loaded.clear()
            torch.compiler.reset()  # what was compiled may hold the weights
            gc.collect()
            loaded[job.model] = build(model, noise.device, torch.float32 if tiny else torch.bfloat16)
        case = measure(
            model, loaded[job.model], job.latent_frames, not tiny, noise, CASE_SECONDS, 2 if tiny else MOST
        )  # fmt: skip
        target, met = judge({"model": job.model, **case})
        return {"result": "right", **case, "target": target, "met": met}


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


if __name__ == "__main__":
    from gpu import main

    sys.exit(main("--parts", "steps"))

"""The pipeline of an example: loaded, under LVSA, and watched step by step."""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from generate_flags import Model

from lvsa_core import Decision, Pattern, show
from lvsa_core.decide import decide
from lvsa_core.diffusers import enable_lvsa
from lvsa_core.knobs import Knobs


@dataclass(frozen=True)
class Job:
    """A video to make, checked: of which model, with what, and where to.

    Args:
        loading: keywords of ``from_pretrained``. knobs: of ``enable_lvsa``; empty: LVSA and RIFLEx are off.
        device: that the pipeline runs on. name: of the files.
    """

    model: Model
    arguments: argparse.Namespace
    loading: dict[str, Any]
    knobs: dict[str, Any]
    device: torch.device
    name: str

    def file(self, ending: str) -> Path:
        """A file of this video."""
        folder: Path = self.arguments.output_dir
        return folder / f"{self.name}{ending}"


def dtype_on(device: torch.device) -> torch.dtype:
    """Of the weights: bfloat16, whose convolutions are slow on most CPUs."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def load(job: Job) -> Any:
    """The pipeline on its device."""
    import diffusers

    dtype = dtype_on(job.device)
    vae = dtype if job.device.type == "cpu" else getattr(torch, job.model.vae_dtype)
    pipeline = getattr(diffusers, job.model.pipeline)
    pipe = pipeline.from_pretrained(job.arguments.model, dtype={"default": dtype, "vae": vae}, **job.loading)
    if job.model.tiling:
        pipe.vae.enable_tiling()
    if job.arguments.offload:
        pipe.enable_model_cpu_offload(device=job.device)
    else:
        pipe.to(job.device)
    return pipe


def video(job: Job, pipe: Any) -> Any:
    """Frames [F, H, W, 3] in 0..1. The noise is the CPU's, so that a seed means the same on every device."""
    arguments = job.arguments
    result = pipe(
        prompt=arguments.prompt,
        negative_prompt=arguments.negative_prompt,
        num_frames=arguments.num_frames,
        height=arguments.height,
        width=arguments.width,
        num_inference_steps=arguments.steps,
        generator=torch.Generator().manual_seed(arguments.seed),
        output_type="np",
        **job.model.call(arguments),
    )
    return result.video if "video" in result else result.frames[0]


def settled(job: Job, pipe: Any) -> Knobs:
    """The knobs, with RIFLEx's factor: unless a flag gives it, the length of the video over the training length."""
    knobs = dict(job.knobs)
    if job.arguments.riflex and "riflex_s" not in knobs:
        probe = enable_lvsa(pipe, **{key: value for key, value in knobs.items() if not key.startswith("riflex")})
        probe.disable()
        length = knobs.get("riflex_train_len") or probe.reference_latent_frames
        knobs["riflex_s"] = max(1.0, _latent(job, pipe)[0] / length)
    return Knobs.of(knobs)


def plans(job: Job, pipe: Any, knobs: Knobs, reference: int) -> tuple[list[Pattern], Decision]:
    """The pattern of every denoising step, and whether they are used; ``reference`` is the training length."""
    frames, factor, joined = _latent(job, pipe)
    arguments = knobs.plan_arguments(reference, factor, joined)
    steps = [decide(frames, step, arguments) for step in range(job.arguments.steps)]
    return [pattern for pattern, _ in steps], steps[0][1]


def _latent(job: Job, pipe: Any) -> tuple[int, int, int]:
    """Frames of tokens, video frames of a latent frame, and latent frames of a frame of tokens, 2 of CogVideoX 1.5."""
    factor = getattr(pipe, "vae_scale_factor_temporal", 4)
    joined = getattr(pipe.transformer.config, "patch_size_t", None) or 1
    return -(-((job.arguments.num_frames - 1) // factor + 1) // joined), factor, joined


def draw(patterns: list[Pattern], picture: Path) -> None:
    """Print the pattern of each denoising step, once for all steps that share it, and draw them side by side."""
    steps: dict[Pattern, list[int]] = {}
    for step, pattern in enumerate(patterns):
        steps.setdefault(pattern, []).append(step)
    for pattern, numbers in steps.items():
        print(f"[LVSA] step {', '.join(map(str, numbers))}: {show.text(pattern)}")
    try:
        show.figure(list(steps), picture)
        print(f"[LVSA] {picture}")
    except ModuleNotFoundError as error:
        print(f"[LVSA] no picture: {error}", file=sys.stderr)


class Profile:
    """Seconds of each denoising step; waits for the device at its end."""

    def __init__(self, pipe: Any, device: torch.device) -> None:
        self.steps: list[float] = []
        self._device, self._last = device, 0.0
        self._advance = pipe.scheduler.step
        pipe.scheduler.step = self._step  # the one place that every pipeline calls once a step
        pipe.transformer.register_forward_pre_hook(self._begin)

    def _begin(self, *_: Any) -> None:
        self._last = self._last or time.perf_counter()

    def _step(self, *args: Any, **options: Any) -> Any:
        result = self._advance(*args, **options)
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.steps.append(now - self._last)
        self._last = now
        return result

    def __str__(self) -> str:
        lines = [f"step {number:3}  {seconds:9.3f} s" for number, seconds in enumerate(self.steps)]
        return "\n".join([*lines, f"median    {statistics.median(self.steps):9.3f} s"])


def peak_memory_mib(device: torch.device) -> float | None:
    """What PyTorch held of the accelerator at most, None if it does not tell; or this process of the host's memory."""
    if device.type == "cpu":
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    for tells in (torch.accelerator, torch.get_device_module(device)):  # the former from PyTorch 2.9 on
        if hasattr(tells, "max_memory_allocated"):
            return round(tells.max_memory_allocated() / 2**20, 1)
    return None

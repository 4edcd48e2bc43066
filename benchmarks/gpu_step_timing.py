"""The numbers of one case, a model at a number of frames: its denoising step, warmed up and timed on both sides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_kernels import first_line
from gpu_step_attention import Watched, fastest_dense, lvsa
from gpu_step_report import judge
from step_parts import Attention, Transformer
from torch import Tensor

from lvsa_core import plan
from lvsa_core.kernels import select
from lvsa_vllm_omni.measure.timing import medians, normal, seconds

GUIDANCE, STEP_SIZE = 5.0, 0.02  # of the update, which only has to be there
CASE_SECONDS, FEWEST, MOST = 12.0, 2, 15  # a case gets as many runs of each side as fit in this
LARGE = 40.0  # seconds of a step of both sides together, of which one run is enough
WARM_UP = 2  # blocks: they use every kernel and all the memory that the others use

Side = Callable[[int], Attention]


class DenoisingStep:
    """A model, the latents of a video, and a prompt and an empty one, all random."""

    def __init__(self, model: Transformer, frames: int, device: torch.device, noise: torch.Generator) -> None:
        sizes, dtype = model.sizes, model.proj_out.weight.dtype
        grid = sizes.grid(frames)
        shape = (1, sizes.channels[0], grid[0], grid[1] * sizes.patch, grid[2] * sizes.patch)
        self.model, self.timestep = model, torch.full((1,), 500.0, device=device)
        self.latents = normal(*shape, dtype=dtype, device=device, noise=noise)
        text = (1, sizes.text_tokens, sizes.text_width)
        self.prompts = [normal(*text, dtype=dtype, device=device, noise=noise) for _ in range(2)]

    @torch.no_grad()
    def forward(self, attention: Attention, prompt: int = 0, layers: int | None = None) -> Tensor:
        """One of the two forwards, of all layers or the first."""
        return self.model(self.latents, self.timestep, self.prompts[prompt], attention, layers)

    def __call__(self, attention: Attention) -> Tensor:
        """The latents of the next step: guidance, and Euler's step."""
        conditional, unconditional = self.forward(attention, 0), self.forward(attention, 1)
        velocity = unconditional + GUIDANCE * (conditional - unconditional)
        return self.latents[:, : velocity.shape[1]] - STEP_SIZE * velocity


def warm_up(step: DenoisingStep, sides: dict[str, Side], compiled: bool) -> str | None:
    """Some blocks of both sides; why they are not compiled, if that fails."""
    reason = None
    if compiled:
        try:
            for block in step.model.blocks:
                block.compile_halves()
            step.forward(sides["dense"](0), layers=1)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no C compiler, or a compiler that does not fit the device
            reason = first_line(error)
    if reason or not compiled:
        for block in step.model.blocks:
            block.uncompile_halves()
    for side in sides.values():
        step.forward(side(0), layers=WARM_UP)
    return reason


def shares(step: DenoisingStep, sides: dict[str, Side], device: torch.device) -> dict[str, tuple[float, float]]:
    """Seconds of one forward of each side, and the share of self-attention in it."""
    found = {}
    for name, side in sides.items():
        attention, out = Watched(side(0), device), []
        spent = seconds(lambda: out.append(step.forward(attention)), device)  # noqa: B023
        if not out[0].isfinite().all():
            raise RuntimeError(f"the output of {name} is not finite")
        found[name] = (spent, attention.seconds() / spent)
    return found


def timed(
    step: DenoisingStep, sides: dict[str, Side], device: torch.device, repeats: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of the runs of each side, which take turns in changing order, and the largest memory of each."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0)
    for run in range(repeats):
        for name in [*sides] if run % 2 == 0 else [*sides][::-1]:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            times[name].append(seconds(lambda: step(sides[name](run)), device))  # noqa: B023
            if device.type == "cuda":
                peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated(device))
    return times, peaks


def fewest(once: float) -> int:
    """Runs that a case gets at least, of a step that takes so many seconds on both sides together."""
    return 1 if once > LARGE else FEWEST


def measure(
    name: str, frames: int, model: Transformer, compiled: bool, device: torch.device, noise: torch.Generator,
    most: int = MOST,
) -> dict[str, Any]:  # fmt: skip
    """All numbers of one case, from at most so many runs of each side."""
    sizes, weight = model.sizes, model.proj_out.weight
    layout = sizes.layout(frames)
    dense_name, dense, dense_times, failed = fastest_dense(layout, sizes.heads, sizes.head_size, device, noise)
    sides: dict[str, Side] = {"dense": lambda _: dense, "lvsa": partial(lvsa, layout, sizes.horizon, dense)}
    step = DenoisingStep(model, frames, device, noise)
    pattern = plan(layout.grid.frames, reference_frames=sizes.horizon)
    kernel = f"dense {dense_name}" if pattern.is_dense else str(select("auto", device, weight.dtype, sizes.head_size))

    reason = warm_up(step, sides, compiled)
    found = shares(step, sides, device)
    once = 2 * sum(spent for spent, _ in found.values())
    times, peaks = timed(step, sides, device, max(fewest(once), min(most, int(CASE_SECONDS / once))))
    middle = medians(times)
    case = {
        "model": name, "frames": frames, "latent_frames": layout.grid.frames, "tokens": layout.q_tokens,
        "density": pattern.density, "dense_pattern": pattern.is_dense, "kernel": kernel, "dense": dense_name,
        "dense_kernels": dense_times, "dense_failed": failed, "dtype": str(weight.dtype), "layers": sizes.layers,
        "parameters": sum(x.numel() for x in model.parameters()), "shared_weights": model.shared,
        "compiled": compiled and not reason, "not_compiled": reason, "repeats": len(times["dense"]), "times": times,
        "seconds": middle, "ratio": middle["dense"] / middle["lvsa"],
        "attention_share": {side: share for side, (_, share) in found.items()}, "peak_bytes": peaks,
    }  # fmt: skip
    return case | dict(zip(("target", "met"), judge(case), strict=True))

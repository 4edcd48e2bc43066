"""The checks and times of one side, which is a kernel or a dense attention; for a process of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from layer import GROUPS, Inputs, difference, in_groups, measure
from models import MODELS, Model
from torch import Tensor

from lvsa_core import Pattern, reference_attend
from lvsa_core.kernels import KERNELS, selftest
from lvsa_vllm_omni.measure.apart import Answer, Result, device_lost, first_line, one_by_one
from lvsa_vllm_omni.measure.dense import DENSE
from lvsa_vllm_omni.measure.machine import facts
from lvsa_vllm_omni.measure.timing import copy_rate, matmul_rate, poison

DTYPE = torch.bfloat16
DENSE_SIDE = "dense "
CASE_SECONDS, RUNS = 3.0, (3, 15)  # each side runs as often as fits into so many seconds, within these numbers


class Job(NamedTuple):
    """A piece of work with a result of its own.

    Args:
        side: a name of ``KERNELS``, or of ``DENSE`` after ``dense ``; others have names of their own.
        model, latent_frames: what is timed; without them the side is checked.
    """

    side: str
    model: str = ""
    latent_frames: int = 0

    def __str__(self) -> str:
        return f"{self.side}, {self.model} T={self.latent_frames}" if self.model else self.side


@dataclass(frozen=True)
class Setting:
    """What all processes of a run are told.

    Args:
        tiny: shrunk shapes, two runs each. seed: of the random numbers.
    """

    device: str
    tiny: bool
    seed: int = field(default_factory=lambda: random.SystemRandom().randrange(2**31))

    def noise(self) -> torch.Generator:
        """This process's random numbers; calls as small as the tiny ones get one thread."""
        if self.tiny:
            torch.set_num_threads(1)
        random.seed(self.seed)
        return torch.Generator(self.device).manual_seed(self.seed)

    def model(self, name: str) -> Model:
        """With its real shape, or shrunk to a few tokens."""
        return MODELS[name].small(4, 16) if self.tiny else MODELS[name]


def machine(setting: Setting, commit: str | None, jobs: Sequence[Job], answer: Answer) -> None:
    """Work of one job: the facts of the machine, with its FLOP and bytes per second."""

    def found(job: Job) -> Result:
        device = torch.device(setting.device)
        size, nbytes = (256, 2**22) if setting.tiny else (8192, 2**32)
        rates = {"flop": matmul_rate(device, DTYPE, size), "bytes": copy_rate(device, nbytes)}
        measured = f"{rates['flop'] / 1e12:.4g} TFLOP/s in {DTYPE} products, {rates['bytes'] / 1e12:.3g} TB/s copied"
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        more = {"capability": capability, "measured": measured, "rates": rates, **asdict(setting)}
        return {"result": "right", "machine": more | facts(device, commit)}

    one_by_one(found, jobs, answer)


@dataclass(frozen=True)
class Layers:
    """Work of one side.

    Args:
        rates: FLOP and bytes per second of matrix products and copies, for the roofline.
        references: the dense attention that a kernel is timed beside, by model and latent frames.
    """

    setting: Setting
    rates: dict[str, float]
    references: dict[tuple[str, int], str]

    def __call__(self, jobs: Sequence[Job], answer: Answer) -> None:
        noise = self.setting.noise()
        one_by_one(lambda job: self.timed(job, noise) if job.model else self.check(job.side, noise), jobs, answer)

    def check(self, side: str, noise: torch.Generator) -> Result:
        """Compare with the masked dense reference; models of about 4000 tokens, of which all of Wan's are the same."""
        patches = 105 if self.setting.tiny else 2000
        small = [*dict.fromkeys(model.small(patches // model.horizon, 128) for model in MODELS.values())]
        if side.startswith(DENSE_SIDE):
            return check_dense(side.removeprefix(DENSE_SIDE), small[0], noise)
        if reason := KERNELS[side].available(noise.device, DTYPE, 128):
            return {"result": "unavailable", "reason": reason}
        return check_kernel(side, small, self.setting.seed, noise)

    def timed(self, job: Job, noise: torch.Generator) -> Result:
        """Times of the side; of a kernel beside the dense reference, also in groups of heads, and with its parts."""
        model, tiny = self.setting.model(job.model), self.setting.tiny
        pattern, name = model.pattern(job.latent_frames), job.side.removeprefix(DENSE_SIDE)
        sparse = job.side in KERNELS
        dense = self.references.get((job.model, job.latent_frames)) if sparse else name
        if dense is None:
            return {"result": "unavailable", "reason": "no dense attention has run at this size"}
        kernel = KERNELS[name] if sparse else None
        chosen = None if pattern.is_dense else kernel
        sides = ({name: kernel.attend} if kernel else {}) | ({GROUPS: partial(in_groups, chosen)} if chosen else {})
        case = measure(
            Inputs.of(model, model.layout(job.latent_frames), DTYPE, noise), pattern, model.horizon, sides, chosen,
            {dense: DENSE[dense]}, CASE_SECONDS, (2, 2) if tiny else RUNS,
        )  # fmt: skip
        floor = max(case["flop"] / self.rates["flop"], case["moved_bytes"] / self.rates["bytes"])
        for row in case["kernels"].values():
            row["roofline"] = row["seconds"] / floor
        result = {"result": "right", "floor": floor, **case}
        if case["failed"]:
            result |= {"result": "failed", "reason": "; ".join(case["failed"].values())}
        elif not all(row["right"] for row in case["kernels"].values()):
            result |= {"result": "wrong"}
        return result


def check_kernel(name: str, models: list[Model], step: int, noise: torch.Generator) -> Result:
    """On every model's layout, and on one with everything in it; the first that is not right, or the largest error."""
    calls = [
        (model.pattern(2 * model.horizon, step), Inputs.of(model, model.layout(2 * model.horizon), DTYPE, noise))
        for model in models
    ]
    calls.append((selftest.PATTERN, Inputs(selftest.LAYOUT, 2, 1, models[0].shape.head_size, DTYPE, noise)))
    found = []
    for pattern, inputs in calls:
        call = partial(KERNELS[name].attend, *inputs.tensors, pattern, inputs.layout, inputs.scale)
        found.append(_compared(call, inputs, reference_attend(*inputs.tensors, pattern, inputs.layout)))
        if found[-1]["result"] != "right":
            return found[-1]
    return {"result": "right", "layouts": len(found), "difference": max(one["difference"] for one in found)}


def check_dense(name: str, model: Model, noise: torch.Generator) -> Result:
    """On all keys. One that raises is missing here."""
    inputs = Inputs.of(model, model.layout(4), DTYPE, noise)
    expected = reference_attend(*inputs.tensors, Pattern(4), inputs.layout)
    try:
        return _compared(partial(DENSE[name], *inputs.tensors, inputs.scale), inputs, expected)
    except Exception as error:
        if device_lost():
            raise
        return {"result": "unavailable", "reason": first_line(error)}


def _compared(function: Callable[[], Tensor], inputs: Inputs, expected: Tensor) -> dict[str, Any]:
    """Run on poisoned memory: free memory is NaN, so that what is left unwritten shows."""
    layout = inputs.layout
    if inputs.device.type == "cuda":
        torch.cuda.empty_cache()  # or the output lands in a block that the poison did not get
    poison(inputs.device, 16 * inputs.q.nbytes)
    out = function()
    start = layout.q_before + layout.real_rows
    out[:, start : layout.q_before + layout.video_rows] = 0  # padding, which kernels leave as it is
    found = difference(out, expected)
    if inputs.right(found):
        return {"result": "right", "difference": found}
    off = "not a number" if found is None else f"off by {found:.2g}, allowed is {selftest.TOLERANCE[inputs.dtype]}"
    return {"result": "wrong", "reason": f"{off}, on {layout}", "difference": found}

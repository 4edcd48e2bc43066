"""What tells one denoising step from the next, wherever a pipeline runs, and when anchors begin to rotate."""

from __future__ import annotations

import math
from typing import Any

import torch


def noisiest(timestep: Any) -> float:
    """The largest of a timestep's numbers, as it may hold one for each token; minus infinity if there is none.

    Args:
        timestep: a number, or a tensor or sequence of numbers. Where it is on a device the host waits for it.
    """
    values = torch.as_tensor(() if timestep is None else timestep)
    return float(values.max()) if values.numel() else -math.inf


def rotation_step(step: int, steps: int | None, after: float) -> int | None:
    """How many steps the anchors have rotated for; None if the number of steps is not known and matters.

    Args:
        step: denoising step, from 0. steps: how many there are. after: share of them in which the anchors stand still.
    """
    if not after:
        return step
    return None if steps is None else max(0, step - math.ceil(after * steps - 1e-9))

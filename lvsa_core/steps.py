"""What tells one denoising step from the next, wherever a pipeline runs."""

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

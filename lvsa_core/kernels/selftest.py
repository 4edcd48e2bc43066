"""The numeric self-test: a small call with everything in it, against the oracle."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lvsa_core.grid import FrameGrid, TokenLayout
from lvsa_core.pattern import Pattern
from lvsa_core.reference import reference_attend

#: Overlapping windows, text on both sides, padding. A frame takes more than one of a kernel's tiles, the last in part.
PATTERN = Pattern(9, window=1, n_first=1, keyframe_interval=4, offset=2)
LAYOUT = TokenLayout(FrameGrid(9, 150), kv_before=3, kv_after=21, q_before=3, q_after=21, pad=5)

#: Largest difference from the oracle of outputs of size 1; a wrong key makes one of about that size.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}


def self_test(kernel: Any, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """None if a kernel computes the pattern there, else what is wrong with it.

    Whatever the kernel raises counts as a failure: it may be a library that does not fit the device or the driver.
    """
    with torch.device("cpu"):  # an engine builds its models with another default, such as meta
        q, k, values, expected = _inputs(dtype, head_size)
        try:
            v = values.to(device)[:, :, 1:]
            out = kernel.attend(q.to(device), k.to(device), v, PATTERN, LAYOUT, head_size**-0.5)
            out = out.to("cpu", torch.float64)
        except Exception as error:
            sentence = str(error).strip().partition("\n")[0]
            return f"its self-test raised {type(error).__name__}: {sentence}"
    rows = torch.ones(LAYOUT.q_tokens, dtype=torch.bool, device="cpu")
    rows[LAYOUT.q_before + LAYOUT.real_rows : LAYOUT.q_before + LAYOUT.video_rows] = False
    difference = (out - expected)[:, rows].abs().max().item()
    tolerance = TOLERANCE.get(dtype, 5e-2)
    return None if difference <= tolerance else f"its self-test is off by {difference:.2g}, allowed is {tolerance:.2g}"


@lru_cache(maxsize=8)
def _inputs(dtype: torch.dtype, head_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and keys, values, and the expected output, all on the CPU; two heads share one key head.

    The values are the second of two heads, so that they lie in memory with gaps, as parts of a fused projection do.
    """
    noise = torch.Generator(device="cpu").manual_seed(0)  # the user's random numbers stay as they are

    def normal(tokens: int, heads: int, size: float) -> Tensor:
        shape = (1, tokens, heads, head_size)
        return (torch.randn(shape, generator=noise, dtype=torch.float32, device="cpu") * size).to(dtype)

    # Scores of size 3: a handful of keys decide about each output.
    q, k, values = normal(LAYOUT.q_tokens, 2, 3.0), normal(LAYOUT.kv_tokens, 1, 1.0), normal(LAYOUT.kv_tokens, 2, 1.0)
    v = values[:, :, 1:]
    expected = reference_attend(q.double(), k.double(), v.double(), PATTERN, LAYOUT, scale=head_size**-0.5)
    return q, k, values, expected

"""Calls that the tests on a GPU share; needs nothing but torch, pytest and lvsa_core."""

import pytest
import torch
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, plan
from lvsa_core.kernels import KERNELS, Kernel
from lvsa_core.positions import Remap, TemporalAxis

CUDA = torch.device("cuda", 0)
BF16 = torch.bfloat16

#: A frame takes several of a kernel's tiles, the last in part; as in joint attention, and with grouped heads in mind.
JOINT = TokenLayout(FrameGrid(41, 150), kv_before=7, kv_after=21, q_after=21)


def names(*families: str, without: str = "nothing") -> list[str]:
    """Kernels of some families (default: all), except those whose name ends so."""
    return [
        name
        for name, kernel in KERNELS.items()
        if (not families or kernel.family in families) and not name.endswith(without)
    ]


def running(name: str, dtype: torch.dtype = BF16, head_size: int = 128) -> Kernel:
    """A kernel that says it runs here; the test is skipped with its reason if it does not."""
    if reason := KERNELS[name].available(CUDA, dtype, head_size):
        pytest.skip(f"{name}: {reason}")
    return KERNELS[name]


def random_qkv(
    layout: TokenLayout, heads: int, kv_heads: int, *, batch: int = 1, dtype: torch.dtype = BF16
) -> tuple[Tensor, Tensor, Tensor]:
    """Fresh queries, keys and values of head size 128. Scores of size 3: a handful of keys decide about each output.

    As from Wan's blocks, queries and keys are contiguous, and values a part of a fused projection.
    """
    shapes = (layout.q_tokens, heads), (layout.kv_tokens, kv_heads), (layout.kv_tokens, 2 * kv_heads)
    q, k, fused = (torch.randn(batch, *shape, 128, dtype=dtype, device=CUDA) for shape in shapes)
    return q.mul_(3), k, fused[:, :, kv_heads:]


def pattern_of(layout: TokenLayout, step: int = 1) -> Pattern:
    """What Wan has for so many frames."""
    return plan(layout.grid.frames, reference_frames=21, step=step)


def moved(layout: TokenLayout) -> Pattern:
    """The same with its anchors boosted and, where they are too far for half of the training, at other positions."""
    remap = Remap(11, TemporalAxis.of(44, 1e4))
    return plan(layout.grid.frames, reference_frames=21, step=1, anchor_boost=1.0, remap=remap)

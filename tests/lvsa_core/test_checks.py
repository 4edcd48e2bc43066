"""What does not fit is refused before anything is computed, with both numbers, by ``attend`` and the oracle alike."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, reference_attend

PATTERN = Pattern(3, window=0, keyframe_interval=3)
LAYOUT = TokenLayout(FrameGrid(3, 4), kv_after=2, q_after=1)

both = pytest.mark.parametrize("function", [attend, reference_attend])


def tensors(
    q: tuple[int, ...] = (1, 13, 4, 8), k: tuple[int, ...] = (1, 14, 2, 8), v: tuple[int, ...] | None = None
) -> list[Tensor]:
    return [torch.zeros(shape) for shape in (q, k, v or k)]


@both
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"q": (13, 4, 8)}, r"q must have 4 dimensions \[batch, tokens, heads, head size\], got 3"),
        ({"v": (1, 1, 14, 2, 8)}, r"v must have 4 dimensions .*, got 5"),
        ({"v": (1, 14, 4, 8)}, r"k and v must have the same shape, got \[1, 14, 2, 8\] and \[1, 14, 4, 8\]"),
        ({"v": (1, 13, 2, 8)}, r"k and v must have the same shape, got \[1, 14, 2, 8\] and \[1, 13, 2, 8\]"),
        ({"q": (2, 13, 4, 8)}, "same batch size, got 2 and 1"),
        ({"q": (1, 13, 4, 16)}, "same head size, got 16 and 8"),
        ({"q": (1, 13, 4, 0), "k": (1, 14, 2, 0)}, "head size must be at least 1, got 0"),
        ({"q": (1, 13, 3, 8)}, "query heads must be a multiple of key heads, got 3 and 2"),
        ({"q": (1, 13, 1, 8)}, "query heads must be a multiple of key heads, got 1 and 2"),
        ({"k": (1, 14, 0, 8)}, "query heads must be a multiple of key heads, got 4 and 0"),
        ({"q": (1, 12, 4, 8)}, "adds up to 13 tokens for q, but q has 12"),
        ({"k": (1, 15, 2, 8)}, "adds up to 14 tokens for k, but k has 15"),
    ],
)
def test_shapes(function: Callable[..., Tensor], shapes: dict[str, Any], message: str) -> None:
    function(*tensors(), PATTERN, LAYOUT)
    with pytest.raises(ValueError, match=message):
        function(*tensors(**shapes), PATTERN, LAYOUT)


@both
def test_pattern_of_another_video(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="the pattern has 4 frames, but the layout has 3"):
        function(*tensors(), Pattern(4), LAYOUT)


@both
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_dtype(function: Callable[..., Tensor], changed: int) -> None:
    mixed = tensors()
    mixed[changed] = mixed[changed].bfloat16()
    with pytest.raises(ValueError, match=r"torch\.\w*float\d\d on cpu, but \w is torch\.\w*float\d\d on cpu"):
        function(*mixed, PATTERN, LAYOUT)
    with pytest.raises(ValueError, match=r"q must be floating point, got torch\.int32"):
        function(*(x.int() for x in tensors()), PATTERN, LAYOUT)


@both
@pytest.mark.parametrize("moved", [1, 2])
def test_device(function: Callable[..., Tensor], moved: int) -> None:
    apart = tensors()
    apart[moved] = apart[moved].to("meta")
    with pytest.raises(ValueError, match=r"q is torch\.float32 on cpu, but [kv] is torch\.float32 on meta"):
        function(*apart, PATTERN, LAYOUT)


@both
@pytest.mark.parametrize("scale", [0.0, -0.5, math.nan, math.inf, 0])
def test_scale(function: Callable[..., Tensor], scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale must be a positive number, got {scale!r}"):
        function(*tensors(), PATTERN, LAYOUT, scale=scale)

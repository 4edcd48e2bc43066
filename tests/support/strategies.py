"""Random patterns, layouts and inputs of an attention call, small enough for the masked dense oracle."""

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, reference_attend
from lvsa_core.positions import Remap, TemporalAxis

#: Whether a run takes its time, as that before a release does.
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


def examples(count: int, **more: Any) -> settings:
    """A test's number of random examples; ten times as many in a thorough run."""
    return settings(max_examples=count * (10 if THOROUGH else 1), **more)


@st.composite
def patterns(draw: st.DrawFn, max_frames: int = 60) -> Pattern:
    """Any pattern, with a bias to few frames, to intervals that leave frames over, and to the expanded window."""
    frames = draw(st.integers(1, max_frames))
    return Pattern(
        frames,
        window=draw(st.integers(0, 5)),
        n_first=draw(st.integers(0, 4)),
        keyframe_interval=draw(st.integers(1, frames + 1)),
        offset=draw(st.integers(0, frames + 3)),
        expand_window=draw(st.sampled_from([True, True, True, False])),
    )


@st.composite
def with_anchors_moved(draw: st.DrawFn, pattern: Pattern, head_size: int) -> Pattern:
    """The same pattern with anchors that are boosted, seen at other distances, or both."""
    pairs = draw(st.integers(1, head_size // 2))
    axis = TemporalAxis.of(2 * pairs, draw(st.sampled_from([10000.0, 256.0])))
    remap = Remap(draw(st.integers(pattern.window + 2, pattern.window + 20)), axis)
    boost = draw(st.sampled_from([1.5, -2.0, 0.25]))
    boost, remap_or_none = draw(st.sampled_from([(boost, None), (0.0, remap), (boost, remap)]))
    return replace(pattern, anchor_boost=boost, remap=remap_or_none)


@st.composite
def layouts(draw: st.DrawFn, pattern: Pattern) -> TokenLayout:
    """Any layout: text around the video in keys and queries, padding, rows that start and end anywhere, fewer keys."""
    few = st.integers(0, 4)
    grid = FrameGrid(pattern.frames, draw(st.integers(1, 5)))
    pad = draw(few)
    part = draw(st.booleans())
    q_offset = draw(st.integers(0, grid.tokens + pad)) if part else 0
    q_rows = draw(st.none() | st.integers(0, grid.tokens + pad - q_offset)) if part else None
    layout = TokenLayout(grid, draw(few), draw(few), draw(few), draw(few), pad, q_offset, q_rows)
    return replace(layout, kv_frames=draw(st.none() | held_frames(pattern, layout)))


@st.composite
def held_frames(draw: st.DrawFn, pattern: Pattern, layout: TokenLayout) -> tuple[int, ...]:
    """The frames that a rank's rows attend to, and perhaps some more, in any order."""
    first, patches = layout.q_offset, layout.grid.patches
    rows = range(first // patches, -(-(first + layout.real_rows) // patches) if layout.real_rows else 0)
    needed = {key for frame in rows for key in pattern.attended(frame)}
    others = sorted(needed.difference(pattern.anchors)) or [0]
    low = draw(st.integers(0, others[0]))
    high = draw(st.integers(others[-1], pattern.frames - 1))
    return tuple(draw(st.permutations(sorted({*pattern.anchors, *needed, *range(low, high + 1)}))))


@dataclass
class Call:
    """The arguments of one attention call."""

    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Pattern
    layout: TokenLayout
    scale: float | None

    def __repr__(self) -> str:  # without the numbers, so that a failing example can be read
        shapes = f"q={tuple(self.q.shape)}{self.q.stride()} k={tuple(self.k.shape)}{self.k.stride()} {self.q.dtype}"
        return f"Call({shapes}, {self.pattern}, {self.layout}, scale={self.scale})"


@st.composite
def calls(draw: st.DrawFn, max_frames: int = 14, anchors_moved: bool = False) -> Call:
    """Any call: batch, grouped-query heads, head size, dtype, scale, and how the tensors lie in memory.

    Args:
        anchors_moved: the anchors are boosted, or seen at other distances.
    """
    pattern = draw(patterns(max_frames))
    layout = draw(layouts(pattern))
    batch, kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    size = draw(st.sampled_from([5, 8, 16, 32] if anchors_moved else [1, 5, 8, 16, 32]))
    pattern = draw(with_anchors_moved(pattern, size)) if anchors_moved else pattern
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    memory = draw(st.sampled_from(["contiguous", "fused", "heads first", "size not last"]))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def tensors(count: int, tokens: int, heads: int) -> list[Tensor]:
        return arranged(memory, count, (batch, tokens, heads, size), dtype, noise)

    (q,) = tensors(1, layout.q_tokens, kv_heads * group)
    k, v = tensors(2, layout.kv_tokens, kv_heads)
    return Call(q, k, v, pattern, layout, draw(st.none() | st.floats(0.01, 1.5)))


def arranged(
    memory: str, count: int, shape: tuple[int, int, int, int], dtype: torch.dtype, noise: torch.Generator
) -> list[Tensor]:
    """``count`` tensors [B, S, H, D] of normal noise that lie in memory as engines produce them."""
    batch, tokens, heads, size = shape

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=noise, dtype=torch.float64).to(dtype)

    if memory == "fused":  # slices of one projection, with a gap between tokens
        return list(normal(batch, tokens, heads, count + 1, size).unbind(3))[:count]
    if memory == "heads first":
        return [normal(batch, heads, tokens, size).transpose(1, 2) for _ in range(count)]
    if memory == "size not last":
        return [normal(batch, tokens, size, heads).transpose(2, 3) for _ in range(count)]
    return [normal(*shape) for _ in range(count)]


def assert_equals_reference(call: Call, out: Tensor | None = None, several: float = 1.5) -> None:
    """Compare with the oracle in float64, within the rounding of the inputs' dtype.

    Args:
        out: what to compare; None: what ``attend`` gives.
        several: how many roundings 16-bit numbers may be off; 1.5 is accumulation in 32 bits and one rounding.
    """
    if out is None:
        out = attend(call.q, call.k, call.v, call.pattern, call.layout, scale=call.scale)
    assert out.shape == call.q.shape and out.dtype == call.q.dtype and not out.requires_grad
    wide = (x.detach().double() for x in (call.q, call.k, call.v))
    expected = reference_attend(*wide, call.pattern, call.layout, scale=call.scale)
    if out.numel():
        rounding = torch.finfo(out.dtype).eps * call.v.detach().abs().max().double()
        allowed = several if out.dtype.itemsize == 2 else 32
        assert (out.double() - expected).abs().max() <= allowed * rounding


def simple_call(pattern: Pattern, layout: TokenLayout, **changes: Any) -> Call:
    """An attention call on random numbers; ``changes``: batch, heads, kv_heads, size, dtype, memory, scale."""
    noise = torch.Generator().manual_seed(0)
    batch, heads, kv_heads, size = (changes.pop(name, 2) for name in ("batch", "heads", "kv_heads", "size"))
    dtype, memory = changes.pop("dtype", torch.float32), changes.pop("memory", "contiguous")
    (q,) = arranged(memory, 1, (batch, layout.q_tokens, heads, size * 4), dtype, noise)
    k, v = arranged(memory, 2, (batch, layout.kv_tokens, kv_heads, size * 4), dtype, noise)
    return Call(q, k, v, pattern, layout, changes.pop("scale", None))

"""Checks of the arguments of an attention call, shared by the fast path and the reference."""

from __future__ import annotations

import math

from torch import Tensor

from lvsa_core.grid import TokenLayout
from lvsa_core.pattern import Pattern
from lvsa_core.sharded.exchange import Shards


def check_call(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float | None) -> float:
    """Return the softmax scale, 1/sqrt(D) if none is given, or say what does not fit.

    Raises:
        ValueError: with both numbers that disagree.
    """
    check_tensors(q, k, v)
    check_axis(pattern)
    if pattern.frames != layout.grid.frames:
        raise ValueError(f"the pattern has {pattern.frames} frames, but the layout has {layout.grid.frames}")
    for name, x, tokens in (("q", q, layout.q_tokens), ("k", k, layout.kv_tokens)):
        if x.shape[1] != tokens:
            raise ValueError(f"the layout adds up to {tokens} tokens for {name}, but {name} has {x.shape[1]}")
    return check_scale(q, scale)


def check_rank_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text: tuple[Tensor, Tensor] | None,
    pattern: Pattern,
    shards: Shards,
    scale: float | None,
) -> float:
    """As :func:`check_call`, for a rank's part of a sequence."""
    check_tensors(q, k, v)
    check_axis(pattern)
    if pattern.frames != shards.grid.frames:
        raise ValueError(f"the pattern has {pattern.frames} frames, but the sequence has {shards.grid.frames}")
    if k.shape[1] != shards.rows or q.shape[1] < shards.rows:
        raise ValueError(f"a rank holds {shards.rows} tokens, but k has {k.shape[1]} and q {q.shape[1]}")
    if text is not None:
        check_tensors(q, *text)
        if text[0].shape[2] != k.shape[2]:
            raise ValueError(f"the text's keys must have as many heads as k, got {text[0].shape[2]} and {k.shape[2]}")
    return check_scale(q, scale)


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Say what does not fit in queries, keys and values, whatever their tokens are."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions [batch, tokens, heads, head size], got {x.dim()}")
        if not x.dtype.is_floating_point:
            raise ValueError(f"{name} must be floating point, got {x.dtype}")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"q is {q.dtype} on {q.device}, but {name} is {x.dtype} on {x.device}: make them the same")
    if k.shape != v.shape:
        raise ValueError(f"k and v must have the same shape, got {list(k.shape)} and {list(v.shape)}")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q and k must have the same batch size, got {q.shape[0]} and {k.shape[0]}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must have the same head size, got {q.shape[3]} and {k.shape[3]}")
    if q.shape[3] == 0:
        raise ValueError(f"head size must be at least 1, got {q.shape[3]}")
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(f"query heads must be a multiple of key heads, got {q.shape[2]} and {k.shape[2]}")


def check_scale(q: Tensor, scale: float | None) -> float:
    """The softmax scale, 1/sqrt(D) if none is given."""
    if scale is None:
        return 1.0 / math.sqrt(q.shape[3])
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number, got {scale!r}; 1/sqrt(head size) is the usual one")
    return float(scale)


def check_axis(pattern: Pattern) -> None:
    """Refuse a pattern whose anchors move along an axis that nobody has told: they would stay where they are."""
    if pattern.grouping and pattern.remap and not pattern.remap.axis.frequencies:
        raise ValueError("the pattern's anchors are at other positions, but its axis has no frequencies")

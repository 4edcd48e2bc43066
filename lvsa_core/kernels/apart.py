"""Anchors at other positions than their own: windows of all frames, and apart from them the anchors outside of each.

A rotary embedding turns pairs of channels by the position, and only the difference of two positions matters. So frames
and anchors are turned from where they stand to where they should, after the model has turned them. A frame sees the
anchors after its window at another shift than those before it. With the anchors turned for both, in one list, it sees
one piece of that list, and its queries are turned once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lvsa_core.cascade import Cascade, cascade
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels.copies import frames_in_order
from lvsa_core.kernels.merge import CHUNK, merging
from lvsa_core.pattern import Pattern
from lvsa_core.positions import TemporalAxis
from lvsa_core.tables import stream

if TYPE_CHECKING:
    from lvsa_core.kernels.prefix_window import PrefixWindow


def attend_apart(
    kernel: PrefixWindow,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layout: TokenLayout,
    scale: float,
    out: Tensor | None = None,
) -> Tensor:
    """Sparse attention of one layer, for patterns with a ``grouping``; see :meth:`PrefixWindow.attend`.

    Other tokens, windows and anchors are three terms, which their log-sum-exps join. Of the keys the other tokens are
    copied where they stand on both sides, the anchors twice, and the video only if its frames are not in time order.
    """
    calls = cascade(pattern, layout)
    out, lse = _other_tokens(kernel, q, k, v, layout, scale, out)
    for i in range(len(q)):
        of_entry = (q[i], k[i], v[i], out[i], lse[i])
        _windows(kernel, *of_entry, calls, scale)
        _anchors(kernel, *of_entry, calls, scale)
    return out


def _other_tokens(
    kernel: PrefixWindow, q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout, scale: float, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All queries on the keys that are not video, and the log-sum-exp; without any, zeros and minus infinity."""
    if layout.kv_before or layout.kv_after:
        keys, values = (_around(x, layout) for x in (k, v))
        if out is None:
            return kernel.attention(q, keys, values, scale)
        return out, kernel.attention_into(out, q, keys, values, scale)
    out = torch.zeros_like(q) if out is None else out.zero_()
    wide = torch.promote_types(q.dtype, torch.float32)
    return out, q.new_full((q.shape[0], q.shape[2], q.shape[1]), -torch.inf, dtype=wide)


def _around(x: Tensor, layout: TokenLayout) -> Tensor:
    """The other tokens' keys or values; a copy where they stand on both sides of the video."""
    parts = [part for part in (x[:, : layout.kv_before], x[:, layout.kv_tokens - layout.kv_after :]) if part.shape[1]]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _windows(
    kernel: PrefixWindow, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Cascade, scale: float
) -> None:
    """Merge one entry's windows, with the anchors in them; copies are freed before those of the anchors are made."""
    held = calls.layout.held_frames
    keys, values = (_video(x, calls.layout) for x in (k, v))
    if held != tuple(sorted(held)):
        order = kernel.frame_order(calls, q.device, "frames")
        keys, values = (frames_in_order(x, order, 0) for x in (keys, values))
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    kernel.windows(q, keys, values, out, lse, calls, scale, "frames", merging(kernel.merge))


def _anchors(
    kernel: PrefixWindow, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Cascade, scale: float
) -> None:
    """Merge one entry's anchors outside of the windows, at the pattern's distances and with its boost."""
    pattern, layout = calls.pattern, calls.layout
    assert pattern.grouping is not None and pattern.remap is not None
    (group, shift), axis = pattern.grouping, pattern.remap.axis
    order = kernel.frame_order(calls, q.device, "anchors")
    keys, values = (frames_in_order(_video(x, layout), order, 0) for x in (k, v))
    places = [anchor // group - anchor for anchor in pattern.anchors]
    turn_(keys, tuple([x + shift for x in places] + [x - shift for x in places]), axis)

    queries = q.clone()
    frames = tuple(frame // group - frame for frame in range(layout.grid.frames))
    for at, first, count, rows in _whole_frames(layout):
        turn_(queries[at : at + count * rows].view(count, rows, *q.shape[1:]), frames[first : first + count], axis)
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    kernel.windows(queries, keys, values, out, lse, calls, scale, "anchors", merging(kernel.merge, pattern.bias))


def _whole_frames(layout: TokenLayout) -> Iterator[tuple[int, int, int, int]]:
    """The query rows that are video, as frames of equal parts: first row, first frame, frames, rows of each."""
    patches, first, at = layout.grid.patches, layout.q_offset, layout.q_before
    end = first + layout.real_rows
    while first < end:
        frame, inside = divmod(first, patches)
        count = 0 if inside else (end - first) // patches
        rows = patches if count else min(patches - inside, end - first)
        yield at, frame, max(1, count), rows
        first, at = first + max(1, count) * rows, at + max(1, count) * rows


def _video(x: Tensor, layout: TokenLayout) -> Tensor:
    """A view of the frames [frames, P, H, D] of keys or values [Sk, H, D]."""
    rows = x[layout.kv_before : layout.kv_before + layout.kv_rows]
    return rows.view(-1, layout.grid.patches, *x.shape[1:])


def turn_(x: Tensor, positions: tuple[int, ...], axis: TemporalAxis) -> None:
    """Turn frames [frames, rows, H, D] to other positions, each by so many more, in place.

    The arithmetic is in float32 or wider, of some frames at a time, and rounded once.
    """
    if not any(positions):
        return
    wide = torch.promote_types(x.dtype, torch.float32)
    rotation = _rotation(positions, axis, wide, x.device, stream(x.device))
    each = max(1, CHUNK // x[0, ..., : axis.channels].numel())
    for first in range(0, len(positions), each):
        part = x[first : first + each, ..., : axis.channels]
        copy = part.to(wide, copy=True, memory_format=torch.contiguous_format)  # of an odd head size no view would do
        pairs = torch.view_as_complex(copy.view(*part.shape[:-1], -1, 2))
        part.copy_(torch.view_as_real(pairs * rotation[first : first + each]).flatten(-2))


@lru_cache(maxsize=256)
def _rotation(
    positions: tuple[int, ...], axis: TemporalAxis, wide: torch.dtype, device: torch.device, stream: int
) -> Tensor:
    """Complex numbers [frames, 1, 1, pairs] that turn by so many positions, on the device."""
    with torch.inference_mode(False):
        angles = torch.tensor(positions, dtype=torch.float64, device="cpu")[:, None] * torch.tensor(
            axis.frequencies, dtype=torch.float64, device="cpu"
        )
        rotation = torch.polar(torch.ones_like(angles), angles).to(wide.to_complex())[:, None, None]
        if device.type == "cuda":
            rotation = rotation.pin_memory()
        return rotation.to(device, non_blocking=True)

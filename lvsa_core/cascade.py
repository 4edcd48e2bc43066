"""A pattern as batched dense calls: one prefix for all queries, and overlapping runs of keys for groups of frames.

The keys are put in the order ``[other tokens | anchors | remaining frames]``. Every query sees the first two parts (the
prefix) and one contiguous run of the third. Frames whose runs start at equal distances form one batched call on strided
views, so that there is neither a loop over frames nor a copy of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lvsa_core.grid import TokenLayout
from lvsa_core.pattern import Pattern


@dataclass(frozen=True)
class Batch:
    """``count`` equally spaced groups of query rows, each with its own run of key rows.

    Group ``i`` is the query rows ``q_start + i * q_step`` to ``+ q_rows`` and the keys ``k_start + i * k_step`` to
    ``+ k_rows``, the latter counted in the remaining frames' tokens.
    """

    count: int
    q_start: int
    q_step: int
    q_rows: int
    k_start: int
    k_step: int
    k_rows: int


@dataclass(frozen=True)
class Cascade:
    """What a call needs to know about a pattern and a layout, made once for all layers and steps that share them."""

    anchors: tuple[int, ...]  # frames in the prefix
    remaining: tuple[int, ...]  # frames in the runs, in time order
    batches: tuple[Batch, ...]


@lru_cache(maxsize=1024)
def cascade(pattern: Pattern, layout: TokenLayout) -> Cascade:
    """The calls that compute ``pattern`` on ``layout``."""
    if pattern.is_dense:
        return Cascade(tuple(range(pattern.frames)), (), ())
    chosen = set(pattern.anchors)
    remaining = tuple(frame for frame in range(pattern.frames) if frame not in chosen)
    batches = (*_frame_batches(pattern, layout), *_other_batches(layout, len(remaining)))
    return Cascade(pattern.anchors, remaining, batches)


@lru_cache(maxsize=256)
def frame_indices(frames: tuple[int, ...], device: torch.device) -> Tensor:
    """``frames`` as an index on ``device``; usable in and out of inference mode."""
    with torch.inference_mode(False):
        return torch.tensor(frames, dtype=torch.int64, device=device)


def _other_batches(layout: TokenLayout, remaining: int) -> Iterator[Batch]:
    """Query tokens that are not video see every remaining frame."""
    keys = remaining * layout.grid.patches
    if layout.q_before:
        yield Batch(1, 0, 0, layout.q_before, 0, 0, keys)
    if layout.q_after:
        yield Batch(1, layout.q_before + layout.video_rows, 0, layout.q_after, 0, 0, keys)


def _frame_batches(pattern: Pattern, layout: TokenLayout) -> list[Batch]:
    """Runs of the frames whose rows this call holds; a frame may be held in part."""
    patches, first_row = layout.grid.patches, layout.q_offset
    end_row = first_row + layout.real_rows
    whole = range(-(-first_row // patches), end_row // patches)
    partial = sorted({row // patches for row in (first_row, end_row) if row % patches and layout.real_rows})

    def held(frame: int) -> tuple[int, int]:
        """First row and number of rows of ``frame``, counted in the call's queries."""
        start, end = max(first_row, frame * patches), min(end_row, (frame + 1) * patches)
        return layout.q_before + start - first_row, end - start

    single = [_batch(pattern, layout, [frame], *held(frame)) for frame in partial]
    spacings = sorted({1, min(pattern.keyframe_interval, max(len(whole), 1))})
    grouped = min(([*_progressions(pattern, whole, d)] for d in spacings), key=len)
    batches = single + [_batch(pattern, layout, frames, *held(frames[0])) for frames in grouped]
    return [batch for batch in batches if batch.k_rows and batch.q_rows]


def _run(pattern: Pattern, frame: int) -> tuple[int, int]:
    """Start and length of a frame's run, in remaining frames."""
    low, high = pattern.windows[frame]
    return pattern.ranks[low], pattern.ranks[high + 1] - pattern.ranks[low]


def _progressions(pattern: Pattern, frames: range, spacing: int) -> Iterator[list[int]]:
    """Split ``frames`` into groups ``spacing`` apart whose runs have one length and equally spaced starts."""
    for residue in range(spacing):
        group: list[int] = []
        for frame in frames[residue::spacing]:
            if len(group) == 1:
                fits = _run(pattern, frame)[1] == _run(pattern, group[0])[1]
            elif group:
                (a, _), (b, n), (c, m) = (_run(pattern, f) for f in (group[-2], group[-1], frame))
                fits = n == m and b - a == c - b
            else:
                fits = True
            if not fits:
                yield group
                group = []
            group.append(frame)
        if group:
            yield group


def _batch(pattern: Pattern, layout: TokenLayout, frames: list[int], q_start: int, q_rows: int) -> Batch:
    patches = layout.grid.patches
    start, length = _run(pattern, frames[0])
    q_step = (frames[1] - frames[0]) * patches if len(frames) > 1 else 0
    k_step = (_run(pattern, frames[1])[0] - start) * patches if len(frames) > 1 else 0
    return Batch(len(frames), q_start, q_step, q_rows, start * patches, k_step, length * patches)

"""A pattern as batched dense calls: one prefix for all queries, and overlapping runs of keys for groups of frames.

The keys are put in the order ``[other tokens | anchors | remaining frames]``. Every query sees the first two parts (the
prefix) and one contiguous run of the third. Neighbouring frames that share a run are one group of rows. Groups whose
runs start at equal distances form one batched call on strided views, so that there is neither a loop over frames nor a
copy of a run.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from lvsa_core.grid import TokenLayout
from lvsa_core.pattern import Pattern

#: Where groups allow it no batch holds more than 1/6 of the frames: its temporary tensors stay below a copy of Q.
MIN_BATCHES = 6


class Batch(NamedTuple):
    """``size`` equally spaced groups of query rows, each with its own run of key rows.

    Group ``i`` is the query rows ``q_start + i * q_step`` to ``+ q_rows`` and the keys ``k_start + i * k_step`` to
    ``+ k_rows``, the latter counted in the remaining frames' tokens.
    """

    size: int
    q_start: int
    q_step: int
    q_rows: int
    k_start: int
    k_step: int
    k_rows: int


@dataclass(frozen=True)
class Cascade:
    """What a call needs to know about a pattern and a layout, made once for all layers and steps that share them."""

    pattern: Pattern
    layout: TokenLayout

    def __post_init__(self) -> None:
        if self.layout.kv_frames is None:
            return
        held, before = set(self.layout.kv_frames), self.pattern.nonanchors_before
        for frame in query_frames(self.layout):
            missing = [key for key in self.pattern.attended(frame) if key not in held]
            if missing:
                raise ValueError(f"the keys lack the frames {missing}, which frame {frame} attends to")
        if self.remaining and before[self.remaining[-1]] - before[self.remaining[0]] != len(self.remaining) - 1:
            raise ValueError(f"the keys must not lack frames between those that are no anchors: {self.remaining}")

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """Frames in the prefix, in the order of the keys: all of them if the pattern is dense."""
        held = self.layout.held_frames
        if self.pattern.is_dense:
            return held
        anchors = set(self.pattern.anchors)
        return tuple(frame for frame in held if frame in anchors)

    @cached_property
    def remaining(self) -> tuple[int, ...]:
        """Frames in the runs, in time order."""
        return tuple(sorted({*self.layout.held_frames}.difference(self.anchors)))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Where the anchors, then the remaining frames, stand among the frames of the keys."""
        places = {frame: place for place, frame in enumerate(self.layout.held_frames)}
        return tuple(places[frame] for frame in self.anchors + self.remaining)

    @property
    def in_order(self) -> bool:
        """Whether the keys already are the other tokens, the anchors, and then the remaining frames."""
        layout, places = self.layout, range(len(self.order))
        return not (layout.pad or layout.kv_after) and self.order == tuple(places)

    @cached_property
    def batches(self) -> tuple[Batch, ...]:
        """The windows as batched calls on views."""
        if not self.remaining:
            return ()
        frames = _frame_batches(self.pattern, self.layout)
        return (*frames, *_other_batches(self.layout, len(self.remaining)))


@lru_cache(maxsize=1024)
def cascade(pattern: Pattern, layout: TokenLayout) -> Cascade:
    """The calls that compute ``pattern`` on ``layout``; the same object for the same arguments."""
    return Cascade(pattern, layout)


class Runs(NamedTuple):
    """All query rows of a call in successive groups, each with one run of the remaining frames' key rows.

    Group ``i`` is the query rows ``q_starts[i]`` to ``q_starts[i + 1]`` and the ``k_rows[i]`` keys from ``k_starts[i]``
    on. Padding is a group without keys.
    """

    q_starts: tuple[int, ...]  # one more than groups
    k_starts: tuple[int, ...]  # one more than groups, as kernels for many lengths want it; the last one is not used
    k_rows: tuple[int, ...]


@lru_cache(maxsize=1024)
def runs(pattern: Pattern, layout: TokenLayout) -> Runs:
    """The windows of ``pattern`` for kernels that take a start and a length per group, in the order of the queries."""
    patches, every = layout.grid.patches, len(_not_anchors(pattern, layout)) * layout.grid.patches
    first, end = layout.q_offset, layout.q_offset + layout.real_rows
    groups = [(layout.q_before, 0, every)]
    held, every_run = query_frames(layout), _frame_runs(pattern, layout)
    for (start, length), sharing in groupby(held, key=every_run.__getitem__):
        low, *others = sharing
        high = others[-1] if others else low
        rows = min((high + 1) * patches, end) - max(low * patches, first)
        groups.append((rows, start * patches, length * patches))
    groups += [(layout.video_rows - layout.real_rows, 0, 0), (layout.q_after, 0, every)]
    q_rows, k_starts, k_rows = zip(*(group for group in groups if group[0]), strict=True)
    return Runs((0, *accumulate(q_rows)), (*k_starts, k_starts[-1]), k_rows)


class Tables(NamedTuple):
    """:class:`Runs` and the order of the frames as int32 tensors on a device, parts of one."""

    order: Tensor  # as many as the keys hold frames
    q_starts: Tensor
    k_starts: Tensor
    k_rows: Tensor
    max_rows: tuple[int, int]  # of the queries and keys of a group


@lru_cache(maxsize=256)
def tables(pattern: Pattern, layout: TokenLayout, device: torch.device) -> Tables:
    """What kernels read of a pattern on ``device``, in one copy for all layers and steps that share it."""
    groups = runs(pattern, layout)
    parts = (cascade(pattern, layout).order, *groups)
    packed = _on_device([value for part in parts for value in part], device)
    q_rows = map(operator.sub, groups.q_starts[1:], groups.q_starts)
    order, q_starts, k_starts, k_rows = torch.split(packed, [len(part) for part in parts])
    return Tables(order, q_starts, k_starts, k_rows, (max(q_rows), max(groups.k_rows)))


@lru_cache(maxsize=256)
def frame_indices(frames: tuple[int, ...], device: torch.device) -> Tensor:
    """``frames`` as an index on ``device``."""
    return _on_device(frames, device)


def _on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """``values`` as int32, usable in and out of inference mode; the host does not wait for the device."""
    with torch.inference_mode(False):
        host = torch.tensor(values, dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
        return host.to(device, non_blocking=True)


def _other_batches(layout: TokenLayout, remaining: int) -> Iterator[Batch]:
    """Query tokens that are not video see every remaining frame."""
    keys = remaining * layout.grid.patches
    if layout.q_before:
        yield Batch(1, 0, 0, layout.q_before, 0, 0, keys)
    if layout.q_after:
        yield Batch(1, layout.q_before + layout.video_rows, 0, layout.q_after, 0, 0, keys)


def _frame_batches(pattern: Pattern, layout: TokenLayout) -> list[Batch]:
    """Runs of the video's rows that this call holds."""
    groups = [*_groups(pattern, layout)]
    spacings = {1, max(1, pattern.keyframe_interval - 1)}  # groups a period: one for every frame that is no anchor
    limit = layout.real_rows // MIN_BATCHES
    splits = ([batch for i in range(d) for batch in _joined(groups[i::d], limit)] for d in spacings)
    return min(splits, key=len)


class _Group(NamedTuple):
    q_start: int
    q_rows: int
    k_start: int
    k_rows: int


def _groups(pattern: Pattern, layout: TokenLayout) -> Iterator[_Group]:
    """One group for neighbouring frames that share a run, as far as this call holds their rows."""
    patches, first_row, end_row = layout.grid.patches, layout.q_offset, layout.q_offset + layout.real_rows
    widest = max(1, pattern.frames // MIN_BATCHES)
    frame = 0
    for (start, length), sharing in groupby(_frame_runs(pattern, layout)):
        end = frame + sum(1 for _ in sharing)
        while frame < end:
            wide = min(widest, end - frame)
            begin = max(frame * patches, first_row)
            rows = min((frame + wide) * patches, end_row) - begin
            if rows > 0 and length:
                yield _Group(layout.q_before + begin - first_row, rows, start * patches, length * patches)
            frame += wide


def _frame_runs(pattern: Pattern, layout: TokenLayout) -> list[tuple[int, int]]:
    """Start and length of every frame's run, in remaining frames; only those of frames with query rows mean anything.

    The keys may lack frames before and after all the runs that this call needs, never between.
    """
    before, remaining = pattern.nonanchors_before, _not_anchors(pattern, layout)
    first = before[remaining[0]] if remaining else 0
    return [(before[low] - first, before[high + 1] - before[low]) for low, high in pattern.windows]


def _not_anchors(pattern: Pattern, layout: TokenLayout) -> list[int]:
    """Frames in the keys that are no anchors, in time order."""
    return sorted({*layout.held_frames}.difference(pattern.anchors))


def query_frames(layout: TokenLayout) -> range:
    """The frames of which this call holds query rows."""
    first, patches = layout.q_offset, layout.grid.patches
    return range(first // patches, -(-(first + layout.real_rows) // patches) if layout.real_rows else 0)


def _joined(groups: list[_Group], limit: int) -> Iterator[Batch]:
    """Join successive groups of equal sizes and distances into batches of at most ``limit`` rows, or of one group."""
    at = 0
    while at < len(groups):
        q_start, q_rows, k_start, k_rows = groups[at]
        size, q_step, k_step = 1, 0, 0
        while at + size < len(groups) and (size + 1) * q_rows <= limit:
            group = groups[at + size]
            if group.q_rows != q_rows or group.k_rows != k_rows:
                break
            if size == 1:
                q_step, k_step = group.q_start - q_start, group.k_start - k_start
            elif group.q_start != q_start + size * q_step or group.k_start != k_start + size * k_step:
                break
            size += 1
        yield Batch(size, q_start, q_step, q_rows, k_start, k_step, k_rows)
        at += size

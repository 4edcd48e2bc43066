"""A pattern as batched dense calls: one prefix for all queries, and overlapping spans of keys for groups of frames.

The keys are put in the order ``[other tokens | anchors | remaining frames]``. Every query attends to the first two
parts (the prefix) and to one contiguous span of the third: what the window of its frame holds besides anchors.
Neighbouring frames with the same span form one group of query rows. Groups whose spans start at equal distances form
one batched call on strided views, so there is no loop over frames and no span is copied.
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

#: No batch of several groups holds more than 1/6 of the rows, so that its temporary tensors stay smaller than Q.
MIN_BATCHES = 6


class Batch(NamedTuple):
    """``size`` equally spaced groups of query rows, each with its own span of key rows.

    Group ``i`` has the ``q_rows`` query rows from ``q_start + i * q_step`` on and the ``k_rows`` key rows from
    ``k_start + i * k_step`` on. Key rows are counted within the remaining frames.
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
    """What a call needs to know about a pattern and a layout; made once for all layers and steps that share both.

    Raises:
        ValueError: if the keys lack a frame that a query attends to, or a frame between those that are not anchors.
    """

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
        """Frames of the prefix, in the order of the keys; all frames if the pattern is dense."""
        held = self.layout.held_frames
        if self.pattern.is_dense:
            return held
        anchors = set(self.pattern.anchors)
        return tuple(frame for frame in held if frame in anchors)

    @cached_property
    def remaining(self) -> tuple[int, ...]:
        """Frames that are not in the prefix, in time order; the spans are parts of them."""
        return tuple(sorted({*self.layout.held_frames}.difference(self.anchors)))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Where the anchors and then the remaining frames stand among the frames of the keys."""
        places = {frame: place for place, frame in enumerate(self.layout.held_frames)}
        return tuple(places[frame] for frame in self.anchors + self.remaining)

    @property
    def in_order(self) -> bool:
        """Whether the keys already have the order other tokens, anchors, remaining frames."""
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
    """The calls that compute ``pattern`` on ``layout``. Cached: the same arguments give the same object."""
    return Cascade(pattern, layout)


class Spans(NamedTuple):
    """All query rows of a call in successive groups, each with one span of the remaining frames' key rows.

    Group ``i`` has the query rows ``q_starts[i]`` to ``q_starts[i + 1]`` and ``k_rows[i]`` keys from ``k_starts[i]``
    on. Padding is a group without keys.
    """

    q_starts: tuple[int, ...]  # one more than there are groups
    k_starts: tuple[int, ...]  # one more too, because varlen kernels expect it; the last one is not used
    k_rows: tuple[int, ...]


@lru_cache(maxsize=1024)
def spans(pattern: Pattern, layout: TokenLayout) -> Spans:
    """The spans of ``pattern``, in the order of the queries, for kernels that take a start and a length for each."""
    patches, every = layout.grid.patches, len(_not_anchors(pattern, layout)) * layout.grid.patches
    first, end = layout.q_offset, layout.q_offset + layout.real_rows
    groups = [(layout.q_before, 0, every)]
    held, every_span = query_frames(layout), _frame_spans(pattern, layout)
    for (start, length), sharing in groupby(held, key=every_span.__getitem__):
        low, *others = sharing
        high = others[-1] if others else low
        rows = min((high + 1) * patches, end) - max(low * patches, first)
        groups.append((rows, start * patches, length * patches))
    groups += [(layout.video_rows - layout.real_rows, 0, 0), (layout.q_after, 0, every)]
    q_rows, k_starts, k_rows = zip(*(group for group in groups if group[0]), strict=True)
    # A group without keys would start where its frames are not held: kernels get a place that there is.
    k_starts = tuple(start if rows else 0 for start, rows in zip(k_starts, k_rows, strict=True))
    return Spans((0, *accumulate(q_rows)), (*k_starts, k_starts[-1]), k_rows)


class Tables(NamedTuple):
    """:class:`Spans` and the order of the frames as int32 tensors on a device; all are parts of one tensor."""

    order: Tensor  # one number for each frame of the keys
    q_starts: Tensor
    k_starts: Tensor
    k_rows: Tensor
    max_rows: tuple[int, int]  # the most query rows and the most key rows of a group


def tables(pattern: Pattern, layout: TokenLayout, device: torch.device) -> Tables:
    """What kernels read about a pattern on ``device``; copied there once for all layers and steps that share it."""
    return _tables(pattern, layout, device, stream(device))


def stream(device: torch.device) -> int:
    """The current stream of a CUDA device; 0 elsewhere.

    What is copied to a device once and kept is there for the stream that copied it: another may be ahead of the copy,
    and so has one of its own.
    """
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@lru_cache(maxsize=256)
def _tables(pattern: Pattern, layout: TokenLayout, device: torch.device, stream: int) -> Tables:
    groups = spans(pattern, layout)
    parts = (cascade(pattern, layout).order, *groups)
    packed = _on_device([value for part in parts for value in part], device)
    q_rows = map(operator.sub, groups.q_starts[1:], groups.q_starts)
    order, q_starts, k_starts, k_rows = torch.split(packed, [len(part) for part in parts])
    return Tables(order, q_starts, k_starts, k_rows, (max(q_rows), max(groups.k_rows)))


def frame_indices(frames: tuple[int, ...], device: torch.device) -> Tensor:
    """``frames`` as an int32 index tensor on ``device``."""
    return _frame_indices(frames, device, stream(device))


@lru_cache(maxsize=256)
def _frame_indices(frames: tuple[int, ...], device: torch.device, stream: int) -> Tensor:
    return _on_device(frames, device)


def _on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """``values`` as int32, usable inside and outside inference mode; the host does not wait for the device."""
    with torch.inference_mode(False):
        host = torch.tensor(values, dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
        return host.to(device, non_blocking=True)


def _other_batches(layout: TokenLayout, remaining: int) -> Iterator[Batch]:
    """Batches of the query tokens that are not video: they attend to every remaining frame."""
    keys = remaining * layout.grid.patches
    if layout.q_before:
        yield Batch(1, 0, 0, layout.q_before, 0, 0, keys)
    if layout.q_after:
        yield Batch(1, layout.q_before + layout.video_rows, 0, layout.q_after, 0, 0, keys)


def _frame_batches(pattern: Pattern, layout: TokenLayout) -> list[Batch]:
    """Batches of the video's rows that this call holds: the fewer of two ways to join the groups."""
    groups = [*_groups(pattern, layout)]
    spacings = {1, max(1, pattern.keyframe_interval - 1)}  # in a period, a group for each non-anchor
    limit = layout.real_rows // MIN_BATCHES
    splits = ([batch for i in range(d) for batch in _joined(groups[i::d], limit)] for d in spacings)
    return min(splits, key=len)


class _Group(NamedTuple):
    q_start: int
    q_rows: int
    k_start: int
    k_rows: int


def _groups(pattern: Pattern, layout: TokenLayout) -> Iterator[_Group]:
    """Groups of neighbouring frames that share a span, with the rows of them that this call holds."""
    patches, first_row, end_row = layout.grid.patches, layout.q_offset, layout.q_offset + layout.real_rows
    widest = max(1, pattern.frames // MIN_BATCHES)
    frame = 0
    for (start, length), sharing in groupby(_frame_spans(pattern, layout)):
        end = frame + sum(1 for _ in sharing)
        while frame < end:
            wide = min(widest, end - frame)
            begin = max(frame * patches, first_row)
            rows = min((frame + wide) * patches, end_row) - begin
            if rows > 0 and length:
                yield _Group(layout.q_before + begin - first_row, rows, start * patches, length * patches)
            frame += wide


def _frame_spans(pattern: Pattern, layout: TokenLayout) -> list[tuple[int, int]]:
    """Start and length of every frame's span, in remaining frames; only valid for frames that have query rows here.

    The keys may lack frames before and after all the spans that this call needs, but none in between.
    """
    before, remaining = pattern.nonanchors_before, _not_anchors(pattern, layout)
    first = before[remaining[0]] if remaining else 0
    return [(before[low] - first, before[high + 1] - before[low]) for low, high in pattern.windows]


def _not_anchors(pattern: Pattern, layout: TokenLayout) -> list[int]:
    """Frames of the keys that are not anchors, in time order."""
    return sorted({*layout.held_frames}.difference(pattern.anchors))


def query_frames(layout: TokenLayout) -> range:
    """The frames that this call holds query rows of."""
    first, patches = layout.q_offset, layout.grid.patches
    return range(first // patches, -(-(first + layout.real_rows) // patches) if layout.real_rows else 0)


def _joined(groups: list[_Group], limit: int) -> Iterator[Batch]:
    """Join successive groups of equal sizes and distances into batches of one group or at most ``limit`` query rows."""
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

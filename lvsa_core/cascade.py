"""A pattern as batched dense calls: one prefix for all queries, and overlapping spans of keys for groups of frames.

The keys are put in the order ``[other tokens | anchors | remaining frames]``. Every query attends to the first two
parts (the prefix) and to one contiguous span of the third: what the window of its frame holds besides anchors.
Neighbouring frames with the same span form one group of query rows. Groups whose spans start at equal distances form
one batched call on strided views, so there is no loop over frames and no span is copied.

Where anchors are seen at other positions, the windows are spans of all frames instead, and the anchors outside of them
spans of a list that has every anchor twice: what comes after a window and then what comes before it is one piece of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

from lvsa_core.grid import TokenLayout
from lvsa_core.pattern import Pattern

#: No batch of several groups holds more than 1/6 of the rows, so that its temporary tensors stay smaller than Q.
MIN_BATCHES = 6


#: What spans are parts of: the remaining frames; all frames that the keys hold, in time order; or the anchors, in time
#: order, twice: first as those after a window, then as those before one.
Part: TypeAlias = Literal["remaining", "frames", "anchors"]


class Batch(NamedTuple):
    """``size`` equally spaced groups of query rows, each with its own span of key rows.

    Group ``i`` has the ``q_rows`` query rows from ``q_start + i * q_step`` on and the ``k_rows`` key rows from
    ``k_start + i * k_step`` on. Key rows are counted within what the spans are parts of.
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
        return _batches(self.pattern, self.layout, "remaining") if self.remaining else ()

    @cached_property
    def apart(self) -> dict[Part, tuple[Batch, ...]]:
        """Where anchors are seen at other positions: the windows, and the anchors, as batched calls on views."""
        return {part: _batches(self.pattern, self.layout, part) for part in ("frames", "anchors")}

    @cached_property
    def orders(self) -> dict[Part, tuple[int, ...]]:
        """Where the frames of each part stand among those of the keys; for the remaining frames, the prefix's first."""
        held = self.layout.held_frames
        places = {frame: place for place, frame in enumerate(held)}
        anchors = tuple(places[frame] for frame in self.pattern.anchors if frame in places)
        return {
            "remaining": self.order,
            "frames": tuple(places[frame] for frame in sorted(held)),
            "anchors": 2 * anchors,
        }


@lru_cache(maxsize=1024)
def cascade(pattern: Pattern, layout: TokenLayout) -> Cascade:
    """The calls that compute ``pattern`` on ``layout``. Cached: the same arguments give the same object."""
    return Cascade(pattern, layout)


def _batches(pattern: Pattern, layout: TokenLayout, part: Part) -> tuple[Batch, ...]:
    """The spans of a part as batched calls."""
    return (*_frame_batches(pattern, layout, part), *_other_batches(layout, every_row(pattern, layout, part)))


def every_row(pattern: Pattern, layout: TokenLayout, part: Part) -> int:
    """Key rows of a part that other tokens than the video's see: all, but as anchors they see none, only as frames."""
    frames = {"remaining": len(_not_anchors(pattern, layout)), "frames": len(layout.held_frames), "anchors": 0}
    return frames[part] * layout.grid.patches


def _other_batches(layout: TokenLayout, keys: int) -> Iterator[Batch]:
    """Batches of the query tokens that are not video, on so many keys."""
    if layout.q_before and keys:
        yield Batch(1, 0, 0, layout.q_before, 0, 0, keys)
    if layout.q_after and keys:
        yield Batch(1, layout.q_before + layout.video_rows, 0, layout.q_after, 0, 0, keys)


def _frame_batches(pattern: Pattern, layout: TokenLayout, part: Part) -> list[Batch]:
    """Batches of the video's rows that this call holds: the fewest of some ways to join the groups."""
    groups, interval = [*_groups(pattern, layout, part)], pattern.keyframe_interval
    # In a period, a group for each non-anchor; of all frames for each frame; and two sets of anchors outside windows.
    spacings = {1, max(1, interval - 1), *(() if part == "remaining" else (interval, 2))}
    limit = layout.real_rows // MIN_BATCHES
    splits = ([batch for i in range(d) for batch in _joined(groups[i::d], limit)] for d in spacings)
    return min(splits, key=len)


class _Group(NamedTuple):
    q_start: int
    q_rows: int
    k_start: int
    k_rows: int


def _groups(pattern: Pattern, layout: TokenLayout, part: Part) -> Iterator[_Group]:
    """Groups of neighbouring frames that share a span, with the rows of them that this call holds."""
    patches, first_row, end_row = layout.grid.patches, layout.q_offset, layout.q_offset + layout.real_rows
    widest = max(1, pattern.frames // MIN_BATCHES)
    frame = 0
    for (start, length), sharing in groupby(frame_spans(pattern, layout, part)):
        end = frame + sum(1 for _ in sharing)
        while frame < end:
            wide = min(widest, end - frame)
            begin = max(frame * patches, first_row)
            rows = min((frame + wide) * patches, end_row) - begin
            if rows > 0 and length:
                yield _Group(layout.q_before + begin - first_row, rows, start * patches, length * patches)
            frame += wide


def frame_spans(pattern: Pattern, layout: TokenLayout, part: Part) -> list[tuple[int, int]]:
    """Start and length of every frame's span, in a part's frames; only valid for frames that have query rows here.

    The keys may lack frames before and after all the spans that this call needs, but none in between.
    """
    if part == "frames":
        held = sorted(layout.held_frames)
        places = ((bisect_left(held, low), bisect_right(held, high)) for low, high in pattern.windows)
        return [(first, end - first) for first, end in places]
    if part == "anchors":
        anchors = pattern.anchors
        around = ((bisect_left(anchors, low), bisect_right(anchors, high)) for low, high in pattern.windows)
        return [(after, len(anchors) + before - after) for before, after in around]
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

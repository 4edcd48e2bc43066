"""What kernels read about a pattern: the spans of its groups as numbers, on the host and on a device."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from lvsa_core.cascade import Part, cascade, every_row, frame_spans, query_frames
from lvsa_core.grid import TokenLayout
from lvsa_core.pattern import Pattern


class Spans(NamedTuple):
    """All query rows of a call in successive groups, each with one span of a part's key rows.

    Group ``i`` has the query rows ``q_starts[i]`` to ``q_starts[i + 1]`` and ``k_rows[i]`` keys from ``k_starts[i]``
    on. Padding is a group without keys.
    """

    q_starts: tuple[int, ...]  # one more than there are groups
    k_starts: tuple[int, ...]  # one more too, because varlen kernels expect it; the last one is not used
    k_rows: tuple[int, ...]


@lru_cache(maxsize=1024)
def spans(pattern: Pattern, layout: TokenLayout, part: Part = "remaining") -> Spans:
    """The spans of ``pattern``, in the order of the queries, for kernels that take a start and a length for each."""
    patches, every = layout.grid.patches, every_row(pattern, layout, part)
    first, end = layout.q_offset, layout.q_offset + layout.real_rows
    groups = [(layout.q_before, 0, every)]
    held, every_span = query_frames(layout), frame_spans(pattern, layout, part)
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


def tables(pattern: Pattern, layout: TokenLayout, device: torch.device, part: Part = "remaining") -> Tables:
    """What kernels read about a pattern on ``device``; copied there once for all layers and steps that share it."""
    return _tables(pattern, layout, device, stream(device), part)


def stream(device: torch.device) -> int:
    """The current stream of a CUDA device; 0 elsewhere.

    What is copied to a device once and kept is there for the stream that copied it: another may be ahead of the copy,
    and so has one of its own.
    """
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@lru_cache(maxsize=256)
def _tables(pattern: Pattern, layout: TokenLayout, device: torch.device, stream: int, part: Part) -> Tables:
    groups = spans(pattern, layout, part)
    parts = (cascade(pattern, layout).orders[part], *groups)
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

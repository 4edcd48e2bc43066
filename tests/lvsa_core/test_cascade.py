"""The cascade's calls are the pattern: every query and key that may attend to each other meet in exactly one."""

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, plan
from lvsa_core.cascade import MIN_BATCHES, Batch, Cascade, cascade
from lvsa_core.reference import token_mask
from lvsa_core.tables import _tables, frame_indices, spans, stream, tables
from tests.support.strategies import examples, layouts, patterns


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Pattern, TokenLayout]:
    pattern = draw(patterns(40))
    return pattern, draw(layouts(pattern))


def key_columns(layout: TokenLayout, frames: tuple[int, ...]) -> list[int]:
    patches, first = layout.grid.patches, layout.kv_before
    places = [layout.held_frames.index(frame) for frame in frames]
    return [first + place * patches + patch for place in places for patch in range(patches)]


@examples(60)
@given(geometries())
def test_calls_are_the_pattern(geometry: tuple[Pattern, TokenLayout]) -> None:
    pattern, layout = geometry
    calls = cascade(pattern, layout)
    others = [*range(layout.kv_before), *range(layout.kv_tokens - layout.kv_after, layout.kv_tokens)]
    remaining = key_columns(layout, calls.remaining)

    counts = torch.zeros(layout.q_tokens, layout.kv_tokens, dtype=torch.int64)
    counts[:, others + key_columns(layout, calls.anchors)] += 1
    for batch in calls.batches:
        for i in range(batch.size):
            first_q, first_k = batch.q_start + i * batch.q_step, batch.k_start + i * batch.k_step
            assert first_q >= 0 and first_q + batch.q_rows <= layout.q_tokens
            assert first_k >= 0 and first_k + batch.k_rows <= len(remaining)
            columns = torch.tensor(remaining[first_k : first_k + batch.k_rows])
            counts[first_q : first_q + batch.q_rows, columns] += 1
    padded = slice(layout.q_before + layout.real_rows, layout.q_before + layout.video_rows)
    counts[padded] = 0  # rows of padding are set to zero afterwards
    assert torch.equal(counts, token_mask(pattern, layout).long())


@examples(60)
@given(geometries())
def test_batches_are_dense_calls_on_views(geometry: tuple[Pattern, TokenLayout]) -> None:
    pattern, layout = geometry
    for batch in cascade(pattern, layout).batches:
        assert batch.size >= 1 and batch.q_rows >= 1 and batch.k_rows >= 1
        assert batch.k_step >= 0  # strides cannot be negative
        assert batch.size == 1 or batch.q_step >= batch.q_rows  # no row twice, or the merge in place would race
        if batch.size > 1:
            assert batch.size * batch.q_rows <= layout.real_rows // MIN_BATCHES


def test_neighbours_that_share_a_run_are_one_group() -> None:
    pattern = plan(81, reference_frames=21)
    calls = cascade(pattern, TokenLayout(FrameGrid(81, 10)))
    # At the start the window cannot move to the left: frames 0 to 5 see the remaining frames 1, 2, 3, 4, 5, 7, 8.
    assert calls.batches[0] == Batch(1, 0, 0, 60, 0, 0, 70)
    assert Batch(12, 70, 60, 10, 20, 50, 70) in calls.batches  # frames 7, 13, .. 73: 6 apart, their spans 5
    assert sum(batch.size for batch in calls.batches) == 61  # 67 - 7 + 1 different spans


@pytest.mark.parametrize(("frames", "joined"), [(41, 0.047), (81, 0.064), (121, 0.069)])
def test_joined_groups_leave_less_of_the_tiles_empty(frames: int, joined: float) -> None:
    """Of FlashAttention-3's, 128 queries by 176 keys at head size 128; with a group for each frame it is 8.3 %."""
    at_480p, tile = spans(plan(frames, reference_frames=21), TokenLayout(FrameGrid(frames, 1560))), (128, 176)
    groups = [
        (end - start, keys) for (start, end), keys in zip(pairwise(at_480p.q_starts), at_480p.k_rows, strict=True)
    ]

    def empty(groups: list[tuple[int, int]]) -> float:
        paid = sum(
            math.prod(-(-size // side) * side for size, side in zip(group, tile, strict=True)) for group in groups
        )
        return paid / sum(map(math.prod, groups)) - 1

    assert empty(groups) == pytest.approx(joined, abs=5e-4)
    apart = [(1560, keys) for rows, keys in groups for _ in range(rows // 1560)]
    assert len(apart) == frames and empty(apart) == pytest.approx(0.083, abs=5e-4)


def test_dense_pattern_has_no_batches() -> None:
    calls = cascade(Pattern(5, window=4, keyframe_interval=5), TokenLayout(FrameGrid(5, 2), q_after=3))
    assert calls.anchors == (0, 1, 2, 3, 4) and not calls.remaining and not calls.batches


def test_plan_and_cascade_are_made_once() -> None:
    def calls() -> Cascade:
        return cascade(plan(241, reference_frames=21, step=11), TokenLayout(FrameGrid(241, 1560)))

    assert calls() is calls()
    assert frame_indices((1, 2), torch.device("cpu")) is frame_indices((1, 2), torch.device("cpu"))


def test_planning_takes_milliseconds() -> None:
    """Of a processor, for a geometry that is new each time; a loop over pairs of frames takes ten times as long."""
    seconds = []
    for frames in range(221, 241):
        start = time.thread_time()
        pattern, layout = plan(frames, reference_frames=21, step=11), TokenLayout(FrameGrid(frames, 1560))
        assert cascade(pattern, layout).batches and spans(pattern, layout)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 5e-3


@examples(60)
@given(geometries())
def test_spans_are_the_windows(geometry: tuple[Pattern, TokenLayout]) -> None:
    """All query rows in order, each group with the remaining frames of its window; text sees all, padding none."""
    pattern, layout = geometry
    if not layout.q_tokens:
        return
    found, remaining = spans(pattern, layout), sorted({*layout.held_frames} - {*pattern.anchors})
    patches = layout.grid.patches
    assert found.q_starts[0] == 0 and found.q_starts[-1] == layout.q_tokens
    most = tables(pattern, layout, torch.device("cpu")).max_rows
    assert most == (max(b - a for a, b in pairwise(found.q_starts)), max(found.k_rows))
    for i, (first, end) in enumerate(pairwise(found.q_starts)):
        seen = remaining[found.k_starts[i] // patches :][: found.k_rows[i] // patches]
        for row in (first, end - 1):
            video = row - layout.q_before
            if 0 <= video < layout.real_rows:
                low, high = pattern.window_bounds((video + layout.q_offset) // patches)
                assert seen == [frame for frame in remaining if low <= frame <= high]
            elif 0 <= video < layout.video_rows:
                assert seen == []
            else:
                assert seen == remaining


def test_one_small_copy_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers share what a step needs on the device, requests share what they have in common, and it is bounded."""
    copies: list[int] = []

    def watched(values: Sequence[int], device: torch.device) -> Tensor:
        copies.append(len(values))
        return torch.tensor(values, dtype=torch.int32, device=device)

    monkeypatch.setattr("lvsa_core.tables._on_device", watched)
    _tables.cache_clear()
    cpu, layout = torch.device("cpu"), TokenLayout(FrameGrid(121, 1560), kv_after=9, q_after=9)
    patterns = [plan(121, reference_frames=21, step=step) for step in range(50)]
    for _request in range(2):
        for pattern in patterns:
            for _layer in range(3):
                parts = tables(pattern, layout, cpu)[:4]
                assert all(x.is_contiguous() and x.dtype == torch.int32 for x in parts)
                assert len({x.untyped_storage().data_ptr() for x in parts}) == 1
    assert len(copies) == patterns[0].keyframe_interval and max(copies) < 4 * 121 + 9
    assert _tables.cache_info().maxsize == 256


def test_tables_serve_in_and_out_of_inference_mode() -> None:
    pattern, layout = plan(30, reference_frames=21), TokenLayout(FrameGrid(30, 2))
    _tables.cache_clear()
    with torch.inference_mode():
        found = tables(pattern, layout, torch.device("cpu"))
    assert not any(x.is_inference() for x in found[:4])
    assert found.order.tolist() == list(cascade(pattern, layout).order)
    assert tuple(found.k_rows.tolist()) == spans(pattern, layout).k_rows


def test_each_stream_has_tables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another stream may be ahead of the copy to the device."""
    cpu, layout, pattern = torch.device("cpu"), TokenLayout(FrameGrid(30, 2)), plan(30, reference_frames=21)
    assert stream(cpu) == 0
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    assert stream(torch.device("cuda")) == 7
    found = []
    for number in (1, 2, 1):
        monkeypatch.setattr("lvsa_core.tables.stream", lambda device, number=number: number)
        found.append((tables(pattern, layout, cpu).order, frame_indices((1, 2), cpu)))
    assert found[0][0] is found[2][0] is not found[1][0] and found[0][1] is found[2][1] is not found[1][1]


def test_a_group_without_keys_starts_where_there_are_some() -> None:
    """Frame 10 is an anchor: its window is empty, and would start behind the one other frame that is held."""
    pattern = Pattern(frames=11, window=0, n_first=0, keyframe_interval=6, offset=4, expand_window=True)
    layout = TokenLayout(FrameGrid(frames=11, patches=2), q_offset=20, kv_frames=(0, 4, 10))
    found = spans(pattern, layout)
    assert (found.k_starts, found.k_rows) == ((0, 0), (0,))

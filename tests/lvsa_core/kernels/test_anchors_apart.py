"""Boosted anchors, and anchors at other positions, by every kind of kernel, against the oracle."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given

from lvsa_core import FrameGrid, TokenLayout, attend, plan
from lvsa_core.kernels import KERNELS, KernelUnavailable, select
from lvsa_core.kernels.apart import turn_
from lvsa_core.kernels.prefix_window import GatheredWindow, PrefixWindow
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_core.positions import Remap, TemporalAxis
from tests.support.strategies import Call, assert_equals_reference, calls, examples, simple_call

AXIS = TemporalAxis.of(4, 256.0)
GATHERED: Any = type("Gathered", (GatheredWindow, SdpaKernel), {})()
CPU = torch.device("cpu")


@examples(50)
@given(calls(max_frames=26, anchors_moved=True))
@example(
    simple_call(
        plan(13, reference_frames=6, window=1, anchor_boost=1.0, remap=Remap(6, AXIS)),
        TokenLayout(FrameGrid(13, 4), pad=5, q_offset=17, q_rows=38),
        heads=6,
    )
)
def test_attend_equals_reference(call: Call) -> None:
    assert_equals_reference(call, several=3)  # queries and anchors are rounded once more, and outputs are joined


@examples(30)
@given(calls(max_frames=26, anchors_moved=True))
def test_copied_windows_equal_reference(call: Call) -> None:
    if call.q.numel():
        q, k, v = (x.contiguous() for x in (call.q, call.k, call.v))
        call.scale = call.scale or call.q.shape[3] ** -0.5
        out = GATHERED.attend(q, k, v, call.pattern, call.layout, call.scale)
        first = call.layout.q_before
        out[:, first + call.layout.real_rows : first + call.layout.video_rows] = 0
        assert_equals_reference(call, out, several=3)


def test_inputs_stay_as_they_are() -> None:
    """Queries and keys are turned in copies."""
    pattern = plan(13, reference_frames=6, window=1, anchor_boost=1.0, remap=Remap(6, AXIS))
    call = simple_call(pattern, TokenLayout(FrameGrid(13, 4), kv_after=2))
    before = [x.clone() for x in (call.q, call.k, call.v)]
    attend(call.q, call.k, call.v, pattern, call.layout)
    assert all(torch.equal(x, y) for x, y in zip(before, (call.q, call.k, call.v), strict=True))


def test_a_frame_of_an_odd_head_size_is_turned_where_it_stands() -> None:
    """Its pairs of channels do not begin at an even place in memory."""
    axis, rows = TemporalAxis((1.0,)), torch.randn(4, 1, 1, 5)
    alone = rows[1:2].clone()
    turn_(alone, (2,), axis)
    turn_(rows[1:2], (2,), axis)
    assert torch.equal(rows[1:2], alone)


def test_frames_are_turned_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 3, 2, 8)
    whole, parts = x.clone(), x.clone()
    turn_(whole, (0, 3, -2, 7, 1), AXIS)
    monkeypatch.setattr("lvsa_core.kernels.apart.CHUNK", 2 * x[0].numel())
    turn_(parts, (0, 3, -2, 7, 1), AXIS)
    assert torch.equal(whole, parts) and torch.equal(whole[..., 4:], x[..., 4:]) and torch.equal(whole[0], x[0])
    assert not torch.equal(whole[1:, ..., :4], x[1:, ..., :4])


def test_kernels_without_log_sum_exp_are_passed_over() -> None:
    able = {name for name, kernel in KERNELS.items() if isinstance(kernel, PrefixWindow)}
    assert {*KERNELS} - able == {"FlashInfer", "FlashInfer-blocks", "FlashInfer-prefix", "sdpa-concatenated"}
    assert select("sdpa", CPU, torch.float32, 64, plain=False).name == "sdpa"
    with pytest.raises(KernelUnavailable, match=r"sdpa-concatenated: it knows neither anchor_boost nor anchor_pos"):
        select("sdpa-concatenated", CPU, torch.float32, 64, plain=False)
    pattern = plan(13, reference_frames=6, window=1, anchor_boost=1.0)
    call = simple_call(pattern, TokenLayout(FrameGrid(13, 4)))
    with pytest.raises(KernelUnavailable, match="anchor_boost"):
        attend(call.q, call.k, call.v, pattern, call.layout, kernel="sdpa-concatenated")
    attend(call.q, call.k, call.v, replace(pattern, anchor_boost=0.0), call.layout, kernel="sdpa-concatenated")

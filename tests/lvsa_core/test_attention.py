"""``attend`` against the oracle, for every way to call it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, plan
from lvsa_core.kernels import KernelUnavailable
from tests.support.strategies import Call, assert_equals_reference, calls, examples, simple_call

WAN_LIKE = plan(13, reference_frames=6, window=1)
TEXT = {"kv_before": 3, "kv_after": 2, "q_before": 1, "q_after": 4}


@examples(150)
@given(calls(max_frames=26))
@example(simple_call(Pattern(1), TokenLayout(FrameGrid(1, 1))))
@example(simple_call(Pattern(5, keyframe_interval=1), TokenLayout(FrameGrid(5, 3), pad=2, **TEXT)))
@example(simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4), pad=5, q_offset=17, q_rows=38), heads=6))
def test_equals_reference(call: Call) -> None:
    assert_equals_reference(call)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("memory", ["contiguous", "fused", "heads first", "size not last"])
def test_dtypes_and_memory(dtype: torch.dtype, memory: str) -> None:
    layout = TokenLayout(FrameGrid(13, 4), **TEXT, pad=3)
    assert_equals_reference(simple_call(WAN_LIKE, layout, dtype=dtype, memory=memory, heads=4))


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize(
    ("frames", "reference", "window"), [(22, 21, 3), (41, 21, 3), (26, 13, 3), (40, 7, 3), (30, 9, 2)]
)
@pytest.mark.parametrize("expand", [True, False])
def test_planned_patterns(frames: int, reference: int, window: int, step: int, expand: bool) -> None:
    pattern = plan(frames, reference_frames=reference, window=window, step=step, expand_window=expand)
    assert_equals_reference(simple_call(pattern, TokenLayout(FrameGrid(frames, 3)), size=1))


@pytest.mark.parametrize(
    "pattern",
    [
        Pattern(9, window=0, n_first=0, keyframe_interval=4),
        Pattern(9, window=0, n_first=2, keyframe_interval=20, offset=11),
        Pattern(9, window=2, n_first=0, keyframe_interval=9, offset=5),
        Pattern(9, window=2, n_first=9, keyframe_interval=5),
        Pattern(9, window=8, keyframe_interval=5),
        Pattern(9, window=2, keyframe_interval=3, expand_window=False),
        Pattern(9, window=1, keyframe_interval=2, offset=1, expand_window=False),
        Pattern(9, window=3, keyframe_interval=1),
    ],
    ids=str,
)
def test_patterns_at_the_edge(pattern: Pattern) -> None:
    assert_equals_reference(simple_call(pattern, TokenLayout(FrameGrid(9, 4), **TEXT, pad=2)))


@pytest.mark.parametrize("name", [*TEXT, "pad"])
def test_one_thing_around_the_video_at_a_time(name: str) -> None:
    assert_equals_reference(simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4), **{name: 5})))


@pytest.mark.parametrize(
    ("offset", "rows"), [(0, 52), (0, 13), (13, 26), (7, 1), (4, 4), (50, 5), (52, 3), (55, None), (20, 0), (31, None)]
)
def test_ranks_that_hold_some_rows(offset: int, rows: int | None) -> None:
    call = simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4), pad=3, q_offset=offset, q_rows=rows))
    assert_equals_reference(call)
    text = simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4), **TEXT, pad=3, q_offset=offset, q_rows=rows))
    assert_equals_reference(text)


def test_ranks_together_are_the_whole() -> None:
    layout = TokenLayout(FrameGrid(13, 4), kv_after=2, pad=4)
    call = simple_call(WAN_LIKE, layout)
    whole = attend(call.q, call.k, call.v, WAN_LIKE, layout)
    parts = [
        attend(call.q[:, first : first + 14], call.k, call.v, WAN_LIKE, replace(layout, q_offset=first, q_rows=14))
        for first in range(0, 56, 14)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)


def test_padding_is_neither_read_nor_filled() -> None:
    layout = TokenLayout(FrameGrid(13, 4), pad=3)
    call = simple_call(WAN_LIKE, layout)
    clean = attend(call.q, call.k, call.v, WAN_LIKE, layout)
    for x in (call.q, call.k, call.v):
        x[:, 52:] = torch.nan
    dirty = attend(call.q, call.k, call.v, WAN_LIKE, layout)
    assert torch.equal(clean, dirty)
    assert torch.equal(dirty[:, 52:], torch.zeros_like(dirty[:, 52:]))


@pytest.mark.parametrize("scale", [0.02, 1.0, 3.0])
def test_given_scale(scale: float) -> None:
    layout = TokenLayout(FrameGrid(13, 4), **TEXT)
    assert_equals_reference(simple_call(WAN_LIKE, layout, scale=scale))


def test_default_scale_is_of_the_head_size() -> None:
    call = simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4)), size=4)
    given_scale = attend(call.q, call.k, call.v, WAN_LIKE, call.layout, scale=0.25)
    assert torch.equal(attend(call.q, call.k, call.v, WAN_LIKE, call.layout), given_scale)


def test_large_scores_and_far_sums() -> None:
    """The two parts differ by hundreds in their log-sum-exps, either way, and neither overflows."""
    call = simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4)))
    for loud in (WAN_LIKE.anchors[1], WAN_LIKE.anchors[1] + 1):
        k = call.k.clone()
        k[:, loud * 4 : loud * 4 + 4] *= 200
        assert_equals_reference(replace(call, k=k))


@pytest.mark.parametrize("made_inside", [True, False])
@pytest.mark.parametrize("called_inside", [True, False])
def test_inference_mode(made_inside: bool, called_inside: bool) -> None:
    pattern = plan(15 + 2 * made_inside + called_inside, reference_frames=6, window=1)  # one that no call has used
    with torch.inference_mode(made_inside):
        call = simple_call(pattern, TokenLayout(FrameGrid(pattern.frames, 2), **TEXT, pad=1))
    assert call.q.is_inference() == made_inside
    with torch.inference_mode(called_inside):
        out = attend(call.q, call.k, call.v, pattern, call.layout)
    assert_equals_reference(call, out)
    # What the first call has cached serves the other mode too.
    with torch.inference_mode(not called_inside):
        again = attend(call.q, call.k, call.v, pattern, call.layout)
    assert torch.equal(out, again)


def test_inputs_that_require_grad() -> None:
    call = simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4), **TEXT))
    for x in (call.q, call.k, call.v):
        x.requires_grad_()
    with torch.no_grad():
        out = attend(call.q, call.k, call.v, WAN_LIKE, call.layout)
    assert not out.requires_grad and out.grad_fn is None
    assert torch.is_grad_enabled()
    assert_equals_reference(call, out)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", [WAN_LIKE, Pattern(13)], ids=["sparse", "dense"])
def test_inputs_stay_as_they_are(pattern: Pattern, dtype: torch.dtype, batch: int) -> None:
    call = simple_call(pattern, TokenLayout(FrameGrid(13, 4), **TEXT, pad=3), dtype=dtype, batch=batch)
    before = [x.clone() for x in (call.q, call.k, call.v)]
    out = attend(call.q, call.k, call.v, pattern, call.layout)
    out.fill_(7)  # nor is the output a view of an input
    assert all(torch.equal(x, y) for x, y in zip(before, (call.q, call.k, call.v), strict=True))


def test_no_batch_entries_no_heads() -> None:
    layout = TokenLayout(FrameGrid(13, 4))
    for batch, heads in ((0, 2), (1, 0)):
        q, k = torch.empty(batch, 52, heads, 8), torch.empty(batch, 52, 2, 8)
        assert attend(q, k, k, WAN_LIKE, layout).shape == q.shape


def test_repeats_are_identical() -> None:
    call = simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4), **TEXT))
    first = attend(call.q, call.k, call.v, WAN_LIKE, call.layout)
    assert torch.equal(first, attend(call.q, call.k, call.v, WAN_LIKE, call.layout))


def test_kernel_by_name() -> None:
    call = simple_call(WAN_LIKE, TokenLayout(FrameGrid(13, 4)))
    assert_equals_reference(call, attend(call.q, call.k, call.v, WAN_LIKE, call.layout, kernel="sdpa"))
    with pytest.raises(KernelUnavailable, match="there is no attention kernel 'cuneiform': choose one"):
        attend(call.q, call.k, call.v, WAN_LIKE, call.layout, kernel="cuneiform")

"""``attend`` under torch.compile, and where gradients are recorded."""

import shutil
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, attention, plan
from lvsa_core.positions import Remap, TemporalAxis
from tests.support.strategies import examples, layouts, patterns, with_anchors_moved

LAYOUT = TokenLayout(FrameGrid(12, 4), kv_after=3, q_after=3)


def tensors(layout: TokenLayout = LAYOUT) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with grouped heads."""
    noise = torch.Generator().manual_seed(0)
    rows = ((layout.q_tokens, 4), (layout.kv_tokens, 2), (layout.kv_tokens, 2))
    q, k, v = (torch.randn(2, tokens, heads, 8, generator=noise) for tokens, heads in rows)
    return q, k, v


def pattern_at(step: int) -> Pattern:
    return plan(12, reference_frames=5, window=1, step=step)


def test_it_compiles_as_one_graph() -> None:
    """The anchors may move and sizes may change without end; every layout is told to the operator."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True)
    def layer(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout) -> Tensor:
        return attend(q * 2, k, v, pattern, layout) + 1

    def check(step: int, layout: TokenLayout) -> None:
        q, k, v = tensors(layout)
        assert torch.equal(layer(q, k, v, pattern_at(step), layout), attend(q * 2, k, v, pattern_at(step), layout) + 1)

    for step in range(6):
        check(step, LAYOUT)
    assert counter.frame_count == 2
    check(1, TokenLayout(FrameGrid(12, 4), kv_before=2, pad=3, q_offset=4, q_rows=8))
    remap = Remap(5, TemporalAxis.of(4, 256.0))
    for changed in ({"anchor_boost": 1.5}, {"remap": remap}, {"anchor_boost": 1.5, "remap": remap}):
        q, k, v = tensors()
        pattern = replace(pattern_at(1), **changed)
        assert torch.equal(layer(q, k, v, pattern, LAYOUT), attend(q * 2, k, v, pattern, LAYOUT) + 1)
    check(1, TokenLayout(FrameGrid(12, 5), kv_frames=tuple(reversed(range(12)))))


@examples(200)
@given(st.data(), st.booleans())
def test_the_call_comes_through_as_numbers(data: st.DataObject, moved: bool) -> None:
    pattern = data.draw(patterns(14))
    layout = data.draw(layouts(pattern))
    pattern = data.draw(with_anchors_moved(pattern, 8)) if moved else pattern
    nothing = torch.empty(0)
    with patch.object(attention, "attend") as called:
        attention._TRACED.sparse(attention._TRACED.call(pattern, layout, "sdpa"), nothing, nothing, nothing, None, 0.5)
    assert called.call_args.args[3:] == (pattern, layout)
    assert called.call_args.kwargs == {"scale": 0.5, "kernel": "sdpa"}


@pytest.mark.slow  # it compiles C++
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile finds no compiler")
@pytest.mark.parametrize("moved", [False, True])
def test_inductor_lowers_it(moved: bool) -> None:
    """The default backend; ranks' rows, and anchors at other positions, come to the operator too."""
    torch._dynamo.reset()
    layout = TokenLayout(FrameGrid(12, 4), kv_before=2, q_offset=4, q_rows=8)
    q, k, v = tensors(layout)
    pattern = (
        replace(pattern_at(1), anchor_boost=1.5, remap=Remap(5, TemporalAxis.of(4, 256.0))) if moved else pattern_at(1)
    )
    layer = torch.compile(lambda q, scale: attend(q * 2, k, v, pattern, layout, scale=scale) + 1, fullgraph=True)
    for scale in (None, 0.25):
        assert torch.equal(layer(q, scale), attend(q * 2, k, v, pattern, layout, scale=scale) + 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(q, None), attend(q * 2, k, v, pattern, layout) + 1)
    with pytest.raises(ValueError, match=r"scale must be a positive number, got -1\.0"):
        layer(q, -1.0)


def test_it_has_no_gradient_and_says_so() -> None:
    for held in range(3):
        inputs = tensors()
        inputs[held].requires_grad_()
        with pytest.raises(ValueError, match="attend has no gradient, but an input requires one: call it under"):
            attend(*inputs, pattern_at(0), LAYOUT)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert not attend(*inputs, pattern_at(0), LAYOUT).requires_grad
    assert torch.isfinite(attend(*tensors(), pattern_at(0), LAYOUT)).all()

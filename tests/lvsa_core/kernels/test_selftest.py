"""The self-test finds what a kernel can get wrong."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core import Pattern, TokenLayout
from lvsa_core.cascade import cascade
from lvsa_core.kernels import selftest
from lvsa_core.kernels.sdpa import ConcatenatedKernel, SdpaKernel
from lvsa_core.kernels.selftest import CALLS, LAYOUT, PATTERN, self_test

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Wrong(SdpaKernel):
    """A kernel with one thing wrong."""

    def __init__(self, **changes: Any) -> None:
        self.__dict__.update(changes)


class WrongInARing(SdpaKernel):
    """Wrong only where a rank holds some of the keys, in the order of its exchange.

    Args:
        mistake: makes other arguments of a call's.
    """

    name = family = "wrong-in-a-ring"

    def __init__(self, mistake: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.mistake = mistake

    def attend(self, *given: Any, **more: Any) -> Tensor:
        named = dict(zip(("q", "k", "v", "pattern", "layout", "scale"), given, strict=True), **more)
        return super().attend(**(named if named["layout"].kv_frames is None else {**named, **self.mistake(named)}))


def in_time_order(call: dict[str, Any]) -> dict[str, Any]:
    """As if the keys stood in the order of time."""
    return {"layout": replace(call["layout"], kv_frames=tuple(sorted(call["layout"].kv_frames)))}


def from_a_frame_on(call: dict[str, Any]) -> dict[str, Any]:
    """As if the rank's rows began with a frame."""
    layout = call["layout"]
    return {"layout": replace(layout, q_offset=layout.q_offset - layout.q_offset % layout.grid.patches)}


def one_too_early(call: dict[str, Any]) -> dict[str, Any]:
    """Takes one key more for ready than is."""
    return {"arriving": call["arriving"]._replace(ready=call["arriving"].ready + 1)}


def not_waiting(call: dict[str, Any]) -> dict[str, Any]:
    return {"arriving": call["arriving"]._replace(wait=lambda: None)}


def shifted(**change: int) -> Any:
    """The right kernel on a slightly different pattern."""

    def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
        values = {name: getattr(pattern, name) for name in Pattern.__dataclass_fields__}
        return SdpaKernel().attend(q, k, v, Pattern(**{**values, **change}), layout, scale)

    return attend


def stale_rows(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
    """Leaves the last row of the video unwritten."""
    out = SdpaKernel().attend(q, k, v, pattern, layout, scale)
    out[:, layout.q_before + layout.real_rows - 1] = float("nan")
    return out


def base_two(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse = SdpaKernel().attention(q, k, v, scale)
    return out, lse * 1.4427


def one_key_lost(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
    held = torch.arange(k.shape[1]) != 700
    return SdpaKernel().attend(q, k, v * held[:, None, None], pattern, layout, scale)


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
    return SdpaKernel().attend(q, k, v, pattern, layout, scale * 1.2)


def raises(*args: Any) -> Tensor:
    raise RuntimeError("no kernel image is available\nfor this device")


WRONG = {
    "window": shifted(window=2),
    "anchors": shifted(offset=1),
    "unwritten": stale_rows,
    "one key lost": one_key_lost,
    "scale": wrong_scale,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str, dtype: torch.dtype) -> None:
    assert "its self-test is off by" in str(self_test(Wrong(attend=WRONG[name]), CPU, dtype, 64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mistake", [in_time_order, from_a_frame_on, one_too_early, not_waiting])
def test_what_is_wrong_only_in_a_ring_is_found(mistake: Any, dtype: torch.dtype) -> None:
    """Also after a kernel that did not wait, whose keys are still missing."""
    assert "its self-test is off by" in str(self_test(WrongInARing(mistake), CPU, dtype, 64))
    assert self_test(WrongInARing(lambda call: {}), CPU, dtype, 64) is None


def test_a_kernel_without_arriving_keys_is_tested_in_a_ring() -> None:
    class Concatenated(ConcatenatedKernel):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: Any, layout: TokenLayout, scale: float) -> Tensor:
            return super().attend(q, k, v, pattern, layout, scale) * (1 if layout.kv_frames is None else 2)

    assert self_test(ConcatenatedKernel(), CPU, torch.float32, 64) is None
    assert "its self-test is off by" in str(self_test(Concatenated(), CPU, torch.float32, 64))


def test_a_kernel_that_does_not_write_where_it_is_told_is_found() -> None:
    """As groups of heads have it written, where memory is short."""

    def elsewhere(out: Tensor, *call: Any) -> Tensor:
        return SdpaKernel().attention(*call)[1]

    def beside(out: Tensor, *call: Any) -> Tensor:
        found, lse = SdpaKernel().attention(*call)
        out[:] = found.roll(1, 2)
        return lse

    for mistake in (elsewhere, beside):
        assert "its self-test is off by" in str(self_test(Wrong(attention_into=mistake), CPU, torch.float32, 64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_log_sum_exp_of_another_base_is_found(dtype: torch.dtype) -> None:
    assert "its self-test is off by" in str(self_test(Wrong(attention=base_two), CPU, dtype, 64))


def test_an_exception_is_a_reason() -> None:
    found = self_test(Wrong(attend=raises), CPU, torch.float32, 64)
    assert found == "its self-test raised RuntimeError: no kernel image is available"


def test_it_holds_everything_an_engine_may_ask_for() -> None:
    assert not PATTERN.is_dense and LAYOUT.pad
    assert all((LAYOUT.kv_before, LAYOUT.kv_after, LAYOUT.q_before, LAYOUT.q_after))
    assert len({low for low, _ in PATTERN.windows}) > 3


def test_it_holds_a_rank_of_a_ring() -> None:
    """With the part of the prefix that arrives, windows, and frames missing on both sides of them."""
    call = CALLS[1]
    layout, patches = call.layout, call.layout.grid.patches
    assert layout.kv_frames is not None and list(layout.kv_frames) != sorted(layout.kv_frames)
    assert layout.q_offset % patches and (layout.q_offset + layout.video_rows) % patches
    calls = cascade(call.pattern, layout)
    assert layout.kv_before < call.ready < layout.kv_before + len(calls.anchors) * patches
    assert calls.in_order and calls.remaining
    lacking = set(range(15)).difference(layout.kv_frames)
    assert min(lacking) < min(calls.remaining) and max(lacking) > max(calls.remaining)


def test_it_holds_whole_frames_of_480p() -> None:
    """1560 patches, two anchors, rows of queries that fill no tile, and as many heads of keys as of queries."""
    call = CALLS[2]
    calls = cascade(call.pattern, call.layout)
    assert call.layout.grid.patches == 1560 and len(calls.anchors) == 2 and calls.remaining and call.kv_heads == 2
    assert call.layout.video_rows % 64 and call.layout.video_rows == 400


class ShortCounting(SdpaKernel):
    """Counts numbers between keys with few bits, as kernels do that take 32 bits for them."""

    name = family = "short-counting"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *given: Any, **more: Any) -> Tensor:
        step = k.stride(1)
        reached = step * torch.arange(k.shape[1]) < selftest.FAR
        return super().attend(q, k * reached[:, None, None], v, *given, **more)


def test_keys_that_are_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU with room the first and the last key lie 2**31 numbers apart; here less."""
    assert selftest.FAR == 2**31 and CALLS[3].far
    assert not selftest._has_room(CPU, torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (13e9, 80e9))
    assert selftest._has_room(torch.device("cuda"), torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (12e9, 80e9))
    assert not selftest._has_room(torch.device("cuda"), torch.bfloat16)
    monkeypatch.setattr(selftest, "_has_room", lambda device, dtype: True)
    monkeypatch.setattr(selftest, "FAR", 2**22)
    assert self_test(SdpaKernel(), CPU, torch.bfloat16, 64) is None
    assert "its self-test is off by" in str(self_test(ShortCounting(), CPU, torch.bfloat16, 64))


@pytest.mark.parametrize("head_size", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_head_sizes(dtype: torch.dtype, head_size: int) -> None:
    assert self_test(SdpaKernel(), CPU, dtype, head_size) is None
    assert "off by" in str(self_test(Wrong(attention=base_two), CPU, dtype, head_size))


def test_it_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    selftest._inputs.cache_clear()
    assert self_test(SdpaKernel(), CPU, torch.bfloat16, 128) is None
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_the_engines_defaults(dtype: torch.dtype) -> None:
    """It builds models in inference mode, with another default dtype, some of them on the meta device."""
    selftest._inputs.cache_clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.inference_mode(), torch.device("meta"):
            assert self_test(SdpaKernel(), CPU, dtype, 64) is None
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("head_size", range(1, 10))
def test_small_heads(head_size: int) -> None:
    """Also those with fewer channels than real models turn by time."""
    assert self_test(SdpaKernel(), CPU, torch.float32, head_size) is None

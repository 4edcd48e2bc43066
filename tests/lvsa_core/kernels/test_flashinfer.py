"""FlashInfer: page lists, planning once a pattern, base 2; a stand-in behind its signatures does the arithmetic."""

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from lvsa_core import FrameGrid, Pattern, TokenLayout, plan
from lvsa_core.kernels import KERNELS, flashinfer, release
from lvsa_core.kernels.flashinfer import FlashInferKernel, frame_lists
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_core.kernels.selftest import self_test
from tests.support.stand_ins import PagedWrapper, single_prefill
from tests.support.strategies import Call, assert_equals_reference, calls, examples, layouts, patterns

real = pytest.importorskip("flashinfer")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[PagedWrapper]:
    class Wrapper(PagedWrapper):
        real = real.BatchPrefillWithPagedKVCacheWrapper
        plans = 0

    fake = SimpleNamespace(
        BatchPrefillWithPagedKVCacheWrapper=Wrapper,
        single_prefill_with_kv_cache=single_prefill(real.single_prefill_with_kv_cache),
    )
    monkeypatch.setitem(sys.modules, "flashinfer", fake)
    monkeypatch.setattr(flashinfer, "WORKSPACE_BYTES", 16)
    return Wrapper


FORMS = {name: FlashInferKernel(name, dense_prefix=name == "prefix") for name in ("pages", "prefix")}


@pytest.mark.parametrize("form", FORMS)
@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls(max_frames=20))
def test_equals_reference(form: str, call: Call) -> None:
    if call.q.numel():
        q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (call.q, call.k, call.v))
        call.scale = call.q.shape[3] ** -0.5 if call.scale is None else call.scale
        out = FORMS[form].attend(q, k, v, call.pattern, call.layout, call.scale)
        first = call.layout.q_before + call.layout.real_rows
        out[:, first : call.layout.q_before + call.layout.video_rows] = 0
        assert_equals_reference(call, out, several=3)


@pytest.mark.parametrize("form", FORMS)
def test_self_test(form: str) -> None:
    assert self_test(FORMS[form], CPU, torch.bfloat16, 64) is None
    assert self_test(FORMS[form], CPU, torch.float16, 128) is None


def test_a_log_sum_exp_of_the_wrong_base_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashinfer, "_LN2", 1.0)
    assert "its self-test is off by" in str(self_test(FORMS["prefix"], CPU, torch.bfloat16, 64))


@pytest.mark.parametrize("form", FORMS)
def test_planned_once_a_pattern(form: str, stand_in: type[PagedWrapper]) -> None:
    kernel, layout = FlashInferKernel(form, dense_prefix=form == "prefix"), TokenLayout(FrameGrid(25, 4), q_after=2)
    q, k, v = torch.randn(3, 2, layout.q_tokens, 2, 8)
    k, v = k[:, :100], v[:, :100]
    patterns = [plan(25, reference_frames=21, step=step) for step in range(2)]
    for pattern in patterns:
        for _layer in range(3):
            kernel.attend(q, k, v, pattern, layout, 0.3)
    assert stand_in.plans == 2
    kernel.attend(q, k, v, patterns[1], layout, 0.4)
    assert stand_in.plans == 3  # another scale is planned too
    assert len(kernel._wrappers) == 1
    kernel.release()
    assert not kernel._wrappers and not kernel._planned
    kernel.attend(q, k, v, patterns[1], layout, 0.4)
    assert stand_in.plans == 4


def test_release_reaches_the_registered_kernels() -> None:
    kernel: Any = KERNELS["FlashInfer-prefix"]
    layout, pattern = TokenLayout(FrameGrid(25, 4)), plan(25, reference_frames=21)
    kernel.attend(*torch.randn(3, 1, 100, 2, 8), pattern, layout, 0.3)
    assert kernel._wrappers
    release()
    assert not kernel._wrappers


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), pattern=patterns(30), anchors=st.booleans())
def test_frame_lists_are_the_pattern(data: st.DataObject, pattern: Pattern, anchors: bool) -> None:
    layout = data.draw(layouts(pattern))
    without = pattern.anchors if anchors else ()
    if not layout.q_tokens:
        return
    starts, places = frame_lists(pattern, layout, without)
    lists = [tuple(layout.held_frames[place] for place in some) for some in places]
    assert starts[0] == 0 and starts[-1] == layout.q_tokens and len(starts) == len(lists) + 1
    for row, frames in zip(starts, lists, strict=False):
        video_row = row - layout.q_before
        if 0 <= video_row < layout.real_rows:
            frame = (video_row + layout.q_offset) // layout.grid.patches
            assert frames == tuple(x for x in pattern.attended(frame) if x not in without)
        elif not 0 <= video_row < layout.video_rows:  # not padding
            assert set(frames) == set(layout.held_frames) - set(without)


def test_dense_attention_gives_the_natural_log_sum_exp() -> None:
    q, k, v = torch.randn(2, 7, 4, 8), *torch.randn(2, 2, 9, 2, 8)
    for found, expected in zip(FlashInferKernel("x").attention(q, k, v, 0.3), SdpaKernel().attention(q, k, v, 0.3),
                               strict=True):  # fmt: skip
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_form_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def watched(pattern: Pattern, layout: TokenLayout, without: tuple[int, ...]) -> Any:
        asked.append(without)
        return frame_lists(pattern, layout, without)

    monkeypatch.setattr(flashinfer, "frame_lists", watched)
    layout, pattern = TokenLayout(FrameGrid(25, 4)), plan(25, reference_frames=21)
    for found in ((8, 0), (9, 0), (10, 0)):
        monkeypatch.setattr(flashinfer, "capability", lambda device, found=found: found)
        FlashInferKernel("x").attend(*torch.randn(3, 1, 100, 2, 8), pattern, layout, 0.3)
    assert asked == [(), pattern.anchors, ()]


@pytest.mark.parametrize(
    ("capability", "dtype", "size", "reason"),
    [
        ((8, 0), torch.bfloat16, 128, None),
        ((7, 5), torch.float16, 128, "it needs compute capability 8.0, this device has 7.5"),
        ((9, 0), torch.float32, 128, "it takes float16 and bfloat16, not torch.float32"),
        ((9, 0), torch.float16, 80, "head size must be 64, 128 or 256, got 80"),
    ],
)
def test_available(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, size: int, reason: str | None
) -> None:
    monkeypatch.setattr("lvsa_core.kernels.cuda.capability", lambda device: capability)
    monkeypatch.setattr(flashinfer, "_missing", lambda: None)
    found = KERNELS["FlashInfer"].available(CUDA, dtype, size)
    assert found is None if reason is None else reason in str(found)


class TestWhatItNeedsToCompile:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packages = {"flashinfer-python": "0.6.18"}
        self.nvcc, self.ninja = True, True
        monkeypatch.setattr(flashinfer, "_version", lambda name: self.packages[name])
        packages = {"flashinfer": "flashinfer-python", "flashinfer_jit_cache": "flashinfer-jit-cache"}
        monkeypatch.setattr("importlib.util.find_spec", lambda name: packages[name] in self.packages or None)
        monkeypatch.setattr(flashinfer, "_nvcc", lambda: self.nvcc)
        monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/ninja" if self.ninja else None)

    def test_compiler(self) -> None:
        assert flashinfer._missing() is None

    def test_not_installed(self) -> None:
        self.packages.clear()
        assert flashinfer._missing() == "FlashInfer is not installed: pip install flashinfer-python"

    def test_compiled_wheel(self) -> None:
        self.nvcc = False
        self.packages["flashinfer-jit-cache"] = "0.6.18+cu130"
        assert flashinfer._missing() is None

    def test_wheel_of_another_version(self) -> None:
        self.packages["flashinfer-jit-cache"] = "0.6.1+cu130"
        assert flashinfer._missing() == (
            "flashinfer-jit-cache 0.6.1 does not fit FlashInfer 0.6.18: install flashinfer-jit-cache==0.6.18"
        )

    @pytest.mark.parametrize("missing", ["nvcc", "ninja"])
    def test_no_compiler(self, missing: str) -> None:
        setattr(self, missing, False)
        assert flashinfer._missing() == (
            f"FlashInfer 0.6.18 finds no {missing} to compile its kernels with: install the CUDA toolkit and ninja, "
            f"or the wheel flashinfer-jit-cache==0.6.18"
        )


def test_base_two() -> None:
    assert math.isclose(2 ** (1 / flashinfer._LN2), math.e)


def test_values_with_gaps_beside_keys_without() -> None:
    """Wan: keys come out of norm and rotation contiguous, values stay a part of the fused projection."""
    layout, pattern = TokenLayout(FrameGrid(25, 4)), plan(25, reference_frames=21)
    q, k = torch.randn(2, 1, 100, 2, 8)
    v = torch.randn(1, 100, 6, 8)[:, :, 4:]
    for kernel in FORMS.values():
        assert_equals_reference(Call(q, k, v, pattern, layout, 0.3), kernel.attend(q, k, v, pattern, layout, 0.3))

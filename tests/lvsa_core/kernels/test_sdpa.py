"""PyTorch's kernels: output, log-sum-exp, and where they say they run."""

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core import FrameGrid, TokenLayout, attend, plan, reference_attend
from lvsa_core.kernels import KERNELS
from lvsa_core.kernels.prefix_window import GatheredWindow
from lvsa_core.kernels.sdpa import AscendKernel, ConcatenatedKernel, SdpaKernel
from lvsa_core.kernels.selftest import self_test
from tests.support.stand_ins import npu_fusion_attention
from tests.support.strategies import Call, assert_equals_reference, calls, examples

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@examples(20)
@given(
    st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(1, 2), st.integers(1, 3),
    st.sampled_from([1, 8, 20]), st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_output_and_log_sum_exp(
    batch: int, rows: int, keys: int, kv_heads: int, group: int, size: int, dtype: torch.dtype
) -> None:
    noise = torch.Generator().manual_seed(rows)
    q, k, v = (
        torch.randn(batch, tokens, heads, size, generator=noise).to(dtype)
        for tokens, heads in ((rows, kv_heads * group), (keys, kv_heads), (keys, kv_heads))
    )
    out, lse = SdpaKernel().attention(q, k, v, 0.3)
    assert out.shape == q.shape and out.dtype == dtype
    assert lse.shape == (batch, q.shape[2], rows) and lse.dtype == torch.promote_types(dtype, torch.float32)

    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    expected = scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True).transpose(1, 2)
    scores = q @ k.repeat_interleave(group, 1).transpose(-1, -2) * 0.3
    several = torch.finfo(dtype).eps * (2 if dtype.itemsize == 2 else 32)
    torch.testing.assert_close(out.double(), expected, rtol=several, atol=several * 3)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=1e-4, atol=1e-4)


def test_overlapping_entries() -> None:
    base = torch.randn(9, 2, 8)
    runs = base.as_strided((3, 5, 2, 8), (2 * 16, 16, 8, 1))  # rows 0-4, 2-6, 4-8
    q = torch.randn(3, 4, 2, 8)
    out, lse = SdpaKernel().attention(q, runs, runs, 0.5)
    copied, copied_lse = SdpaKernel().attention(q, runs.contiguous(), runs.contiguous(), 0.5)
    assert torch.equal(out, copied) and torch.equal(lse, copied_lse)


@pytest.mark.parametrize(
    ("device", "dtype", "size", "reason"),
    [
        (CPU, torch.float64, 5, None),
        (CUDA, torch.bfloat16, 128, None),
        (CUDA, torch.float32, 64, None),
        (CUDA, torch.float64, 64, "it takes float16 and bfloat16 and float32, not torch.float64"),
        (CUDA, torch.float16, 20, "head size must be a multiple of 8 up to 256 on cuda, got 20"),
        (CUDA, torch.float16, 264, "up to 256 on cuda, got 264"),
        (torch.device("meta"), torch.float32, 64, "it needs a CUDA device, not meta"),
    ],
)
def test_available(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, dtype: torch.dtype, size: int, reason: str | None
) -> None:
    monkeypatch.setattr("lvsa_core.kernels.cuda.capability", lambda device: (8, 0))
    found = SdpaKernel().available(device, dtype, size)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("capability", "dtype", "runs"),
    [((7, 5), torch.float16, True), ((7, 5), torch.bfloat16, False), ((0, 0), torch.float16, False)],
)
def test_before_ampere(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, runs: bool
) -> None:
    monkeypatch.setattr("lvsa_core.kernels.cuda.capability", lambda device: capability)
    assert (SdpaKernel().available(CUDA, dtype, 64) is None) == runs


class GatheredSdpa(GatheredWindow, SdpaKernel):
    """PyTorch's kernel on copied windows."""


@pytest.fixture
def torch_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", SimpleNamespace(npu_fusion_attention=npu_fusion_attention))


OTHERS = [GatheredSdpa(), ConcatenatedKernel(), AscendKernel()]


@pytest.mark.parametrize("kernel", OTHERS, ids=lambda kernel: type(kernel).__name__)
@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls(max_frames=20))
def test_other_ways_equal_the_reference(torch_npu: None, kernel: SdpaKernel, call: Call) -> None:
    if call.q.numel():
        q, k, v = (x.contiguous() for x in (call.q, call.k, call.v))
        call.scale = call.q.shape[3] ** -0.5 if call.scale is None else call.scale
        out = kernel.attend(q, k, v, call.pattern, call.layout, call.scale)
        first = call.layout.q_before + call.layout.real_rows
        out[:, first : call.layout.q_before + call.layout.video_rows] = 0
        assert_equals_reference(call, out, several=3)


def test_gathered_windows_fit_the_memory_and_have_few_shapes() -> None:
    shapes: list[tuple[torch.Size, torch.Size]] = []

    class Watched(GatheredSdpa):
        def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
            shapes.append((q.shape, k.shape))
            return super().attention(q, k, v, scale)

    layout, pattern = TokenLayout(FrameGrid(81, 4)), plan(81, reference_frames=21)
    q, k, v = torch.randn(3, 1, layout.q_tokens, 2, 8)
    Watched().attend(q, k, v, pattern, layout, 0.3)
    assert len(set(shapes[1:])) <= 4  # single frames, and those that share a run with neighbours
    for queries, keys in shapes[1:]:
        assert 2 * keys.numel() + queries.numel() <= q.numel()


def test_ascend(monkeypatch: pytest.MonkeyPatch, torch_npu: None) -> None:
    npu = SimpleNamespace(type="npu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert AscendKernel().available(npu, torch.bfloat16, 128) is None
    assert "not torch.float32" in str(AscendKernel().available(npu, torch.float32, 128))
    assert "it is for Ascend, the device is cpu" in str(AscendKernel().available(CPU, torch.bfloat16, 128))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert AscendKernel().available(npu, torch.bfloat16, 128) == "torch_npu is not installed"
    assert self_test(AscendKernel(), CPU, torch.bfloat16, 64) is None


def test_any_device_has_one() -> None:
    """A device of another kind runs PyTorch's own attention on concatenated keys."""
    xpu = torch.device("xpu")
    reasons = {name: kernel.available(xpu, torch.bfloat16, 80) for name, kernel in KERNELS.items()}
    assert [name for name, reason in reasons.items() if reason is None] == ["sdpa-concatenated"]


@pytest.mark.parametrize("kernel", ["sdpa", "sdpa-concatenated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("where", ["prefix", "window", "everywhere"])
def test_rows_whose_scores_are_all_minus_infinity(where: str, dtype: torch.dtype, kernel: str) -> None:
    """To the keys of one part, for one of two heads; PyTorch's CPU kernel gives a log-sum-exp of 0 there."""
    pattern, layout = (
        plan(12, reference_frames=5, window=1, step=1),
        TokenLayout(FrameGrid(12, 4), kv_after=3, q_after=3),
    )
    anchors = torch.tensor([frame in pattern.anchors for frame in range(12)]).repeat_interleave(4)
    prefix = torch.cat([anchors, torch.ones(3, dtype=torch.bool)])
    rows = {"prefix": prefix, "window": ~prefix, "everywhere": prefix | True}[where]
    noise = torch.Generator().manual_seed(0)
    q = torch.rand(1, 51, 4, 8, generator=noise) + 0.1
    k, v = (torch.randn(1, 51, 2, 8, generator=noise) for _ in range(2))
    k[:, rows, :1, 0] = -torch.inf
    q, k, v = (x.to(dtype) for x in (q, k, v))
    out, expected = attend(q, k, v, pattern, layout, kernel=kernel), reference_attend(q, k, v, pattern, layout)
    torch.testing.assert_close(out, expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0)

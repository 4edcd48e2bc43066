"""PyTorch's kernels: output, log-sum-exp, and where they say they run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core.kernels.sdpa import SdpaKernel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@settings(max_examples=40)
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
        (CUDA, torch.float64, 64, "no float64 kernel on cuda"),
        (CUDA, torch.float16, 20, "head size must be a multiple of 8 up to 256 on cuda, got 20"),
        (CUDA, torch.float16, 264, "up to 256 on cuda, got 264"),
        (torch.device("meta"), torch.float32, 64, "no log-sum-exp on meta"),
    ],
)
def test_available(device: torch.device, dtype: torch.dtype, size: int, reason: str | None) -> None:
    found = SdpaKernel().available(device, dtype, size)
    assert found is None if reason is None else reason in str(found)

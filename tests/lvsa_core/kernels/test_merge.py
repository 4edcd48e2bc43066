"""Two attentions over disjoint keys, joined, are the attention over all keys."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvsa_core.kernels import merge
from lvsa_core.kernels.merge import merge_, merge_eager_


def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output [N, S, H, D] and log-sum-exp [N, H, S] of softmax attention, written out."""
    scores = torch.einsum("nqhd,nkhd->nhqk", q, k)
    return torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v), scores.logsumexp(-1)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    keys=st.integers(2, 12),
    split=st.data(),
    loudness=st.sampled_from([0.1, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_join_of_split_keys(
    sizes: tuple[int, int, int, int], keys: int, split: st.DataObject, loudness: float, dtype: torch.dtype
) -> None:
    n, s, h, d = sizes
    first = split.draw(st.integers(1, keys - 1))
    q, k, v = noise(n, s, h, d, seed=1) * loudness, noise(n, keys, h, d, seed=2), noise(n, keys, h, d, seed=3)
    whole, _ = attention(q, k, v)
    (out, lse), (other, other_lse) = attention(q, k[:, :first], v[:, :first]), attention(q, k[:, first:], v[:, first:])
    wide = torch.promote_types(dtype, torch.float32)
    out = out.to(dtype)
    merge_(out, lse.to(wide), other.to(dtype), other_lse.to(wide))
    assert out.dtype == dtype
    # Two inputs and one output are rounded; with loud scores float32 log-sum-exps of about 100 have lost some digits.
    rounding = 2 * torch.finfo(dtype).eps + 4 * torch.finfo(wide).eps * float(lse.abs().max() + 1)
    assert (out.double() - whole).abs().max() <= rounding * v.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_on_a_strided_view(dtype: torch.dtype) -> None:
    base = noise(12, 2, 3, seed=4).to(dtype)
    view = base.as_strided((2, 2, 2, 3), (36, 6, 3, 1), 6)  # rows 1, 2 and 7, 8
    other, lse, other_lse = noise(2, 2, 2, 3, seed=5).to(dtype), noise(2, 2, 2, seed=6), noise(2, 2, 2, seed=7)
    expected = view.float().lerp(other.float(), torch.sigmoid(other_lse - lse).float().transpose(1, 2).unsqueeze(-1))
    untouched, kept = [0, 3, 4, 5, 6, 9, 10, 11], base.clone()
    merge_(view, lse.float(), other, other_lse.float())
    torch.testing.assert_close(view, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert torch.equal(base[untouched], kept[untouched])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("gap", "side"), [(1e4, 1), (-1e4, 0), (0.0, 0.5)])
def test_far_apart(gap: float, side: float, dtype: torch.dtype) -> None:
    out, other = torch.zeros(1, 1, 1, 4, dtype=dtype), torch.ones(1, 1, 1, 4, dtype=dtype)
    merge_(out, torch.tensor([[[500.0]]]), other, torch.tensor([[[500.0 + gap]]]))
    assert out.tolist() == [[[[side] * 4]]]


def test_half_precision_weights_are_not_rounded() -> None:
    """A weight of 1 - 2**-12 would be 1 in bfloat16, and a visible part of a large ``out`` would be lost."""
    out, other = torch.full((1, 1, 1, 1), 4096.0).bfloat16(), torch.zeros(1, 1, 1, 1).bfloat16()
    merge_(out, torch.zeros(1, 1, 1), other, torch.full((1, 1, 1), math.log(2.0**12 - 1)))
    assert abs(out.item() - 1.0) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    out, other = noise(2, 9, 3, 4, seed=1).to(dtype), noise(2, 9, 3, 4, seed=2).to(dtype)
    lse, other_lse = noise(2, 3, 9, seed=3).float(), noise(2, 3, 9, seed=4).float()
    expected = out.clone()
    merge_eager_(expected, lse, other, other_lse)
    monkeypatch.setattr(merge, "CHUNK", 2 * 2 * 3 * 4)  # two rows
    merge_eager_(out, lse, other, other_lse)
    torch.testing.assert_close(out, expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_the_probe_is_what_calls_are_in_any_default_dtype() -> None:
    """Engines build models, and choose the kernel, with their own default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        out, lse, other = merge._probe(torch.device("cpu"))
    finally:
        torch.set_default_dtype(before)
    assert (out.dtype, lse.dtype, other.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    merge_(out, lse, other, lse)
    assert torch.equal(out, torch.full_like(out, 0.5))

"""The Triton merge in Triton's interpreter, on the CPU."""

import importlib
import math
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvsa_core.kernels import merge
from lvsa_core.kernels.merge import merge_eager_
from tests.support.strategies import examples

pytest.importorskip("triton")

Merge = Callable[[Tensor, Tensor, Tensor, Tensor], None]


@pytest.fixture(scope="module")
def merge_triton_() -> Merge:
    """The kernel compiled for the interpreter, which Triton decides when it decorates the function."""
    name = "lvsa_core.kernels.triton_merge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, name, raising=False)
        interpreted: Merge = importlib.import_module(name).merge_triton_
        sys.modules.pop(name)
    return interpreted


@examples(30)
@given(
    entries=st.integers(1, 2), rows=st.integers(1, 70), heads=st.integers(1, 3), size=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seed=st.integers(0, 99), view=st.booleans(),
)  # fmt: skip
def test_equals_pytorch(
    merge_triton_: Merge, entries: int, rows: int, heads: int, size: int, dtype: torch.dtype, seed: int, view: bool
) -> None:
    noise = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise)

    out, other = (normal(entries, rows, heads, size).to(dtype) for _ in range(2))
    if view:  # rows with gaps between them, heads first
        out = normal(entries, heads, 2 * rows, size + 3).to(dtype)[:, :, ::2, :size].transpose(1, 2)
        other = normal(entries, heads, rows, size).to(dtype).transpose(1, 2)
    lse, other_lse = normal(entries, heads, rows) * 5, normal(entries, rows, heads).transpose(1, 2) * 5
    empty = torch.rand(entries, heads, rows, generator=noise) < 0.2
    other_lse = other_lse.masked_fill(empty, math.inf if seed % 2 else -math.inf)
    other = torch.where(empty.transpose(1, 2)[..., None], math.nan, other)  # whatever stands in rows without keys
    expected = out.clone()
    merge_eager_(expected, lse, torch.nan_to_num(other), other_lse)
    merge_triton_(out, lse, other, other_lse)
    rounding = torch.finfo(dtype).eps * (1 if dtype.itemsize == 2 else 8)
    torch.testing.assert_close(out, expected, rtol=rounding, atol=rounding)
    assert not out.isnan().any()


def test_offsets_have_64_bits(merge_triton_: Merge) -> None:
    """720p at T=121 has more than 2**31 elements; three rows far apart in memory that is never touched otherwise."""
    apart = 2**30
    memory = torch.empty(2 * apart + 8, dtype=torch.bfloat16)
    out = memory.as_strided((1, 3, 1, 8), (0, apart, 8, 1))
    out.fill_(1.0)
    merge_triton_(out, torch.zeros(1, 1, 3), torch.full((1, 3, 1, 8), 3.0).bfloat16(), torch.zeros(1, 1, 3))
    assert out.flatten().tolist() == [2.0] * 24


def test_where_triton_does_not_run_pytorch_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here there is no CUDA: the reason is kept for the log and the merge goes on."""
    if torch.cuda.is_available():
        pytest.skip("Triton runs here")
    merge._merge_on.cache_clear()
    try:
        assert merge._merge_on(torch.device("cuda"))[0] is merge_eager_
        assert merge.passed_over(torch.device("cuda"))
        assert merge.passed_over(torch.device("cpu")) is None
    finally:
        merge._merge_on.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_compiles_for_gpus(capability: int, dtype: str) -> None:
    """Triton needs no GPU to compile for one."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lvsa_core.kernels.triton_merge import BLOCK_ROWS, _merge

    arguments = {name: "i32" for name in _merge.arg_names}
    arguments |= {"out": f"*{dtype}", "other": f"*{dtype}", "lse": "*fp32", "other_lse": "*fp32"}
    constants = {"BLOCK_ROWS": BLOCK_ROWS, "BLOCK_SIZE": 128}
    signature = {name: "constexpr" if name in constants else kind for name, kind in arguments.items()}
    compiled = compile(ASTSource(_merge, signature, constants), target=GPUTarget("cuda", capability, 32))
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert "ex2.approx" in compiled.asm["ptx"]

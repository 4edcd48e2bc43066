"""Every kernel on a GPU against the oracle; the CPU's tests cover the layouts in full."""

import pytest
import torch
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, reference_attend
from lvsa_core.kernels import KERNELS, merge
from lvsa_core.kernels.merge import merge_eager_, passed_over
from lvsa_core.kernels.prefix_window import GatheredWindow, PrefixWindow, VarlenWindow
from lvsa_core.kernels.selftest import TOLERANCE, self_test
from lvsa_core.tables import Tables
from lvsa_vllm_omni.measure.timing import poison
from tests.support.gpu_calls import BF16, CUDA, JOINT, moved, names, pattern_of, random_qkv, running

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

HALF = [torch.bfloat16, torch.float16]
LAYOUTS = [
    JOINT,
    TokenLayout(FrameGrid(41, 60)),
    TokenLayout(FrameGrid(26, 130), pad=3),
    TokenLayout(FrameGrid(25, 16), q_before=5, kv_before=5, kv_after=3),
    TokenLayout(FrameGrid(25, 16), pad=7, q_offset=101, q_rows=77),  # a rank's part: it begins and ends within a frame
    TokenLayout(FrameGrid(25, 16), pad=7, q_offset=350),  # the last rank's
]
#: Read in place, where the runs overlap.
IN_PLACE = [name for name, x in KERNELS.items() if isinstance(x, VarlenWindow) and not isinstance(x, GatheredWindow)]


def poisoned() -> None:
    """All free memory is NaN: what a kernel leaves unwritten shows."""
    torch.cuda.empty_cache()
    poison(CUDA, 2**28)


@pytest.mark.parametrize("name", ["auto", *names()])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("batch", "heads", "kv_heads"), [(1, 4, 4), (2, 4, 2)])
def test_equals_the_oracle(
    name: str, dtype: torch.dtype, layout: TokenLayout, batch: int, heads: int, kv_heads: int
) -> None:
    if name != "auto":
        running(name, dtype)
    inputs = random_qkv(layout, heads, kv_heads, batch=batch, dtype=dtype)
    for pattern in (pattern_of(layout), Pattern(layout.grid.frames)):  # the second is dense
        expected = reference_attend(*inputs, pattern, layout)
        poisoned()
        out = attend(*inputs, pattern, layout, kernel=name)
        assert (out.float() - expected.float()).abs().max() <= TOLERANCE[dtype]  # false for NaN


@pytest.mark.parametrize("name", ["auto", *(name for name, x in KERNELS.items() if isinstance(x, PrefixWindow))])
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_moved_anchors_equal_the_oracle(name: str, dtype: torch.dtype, layout: TokenLayout) -> None:
    """Boosted, and at other positions, which are turned in float32 and rounded."""
    if name != "auto":
        running(name, dtype)
    inputs, pattern = random_qkv(layout, 4, 2, batch=2, dtype=dtype), moved(layout)
    assert pattern.grouping is not None
    expected = reference_attend(*(x.float() for x in inputs), pattern, layout)
    poisoned()
    out = attend(*inputs, pattern, layout, kernel=name)
    assert (out.float() - expected).abs().max() <= TOLERANCE[dtype]


def test_the_merge_runs_in_one_pass_where_an_engine_builds_its_model() -> None:
    """It sets a default dtype of its own meanwhile, and what is found then holds for all requests."""
    merge._merge_on.cache_clear()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert passed_over(CUDA) is None
    finally:
        torch.set_default_dtype(torch.float32)
        merge._merge_on.cache_clear()


@pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if isinstance(kernel, PrefixWindow)])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
@pytest.mark.parametrize(("rows", "kv_heads"), [(1, 2), (33, 1), (200, 2)])
def test_the_log_sum_exp(name: str, dtype: torch.dtype, rows: int, kv_heads: int) -> None:
    kernel = running(name, dtype, 64)
    q = torch.randn(2, rows, 2, 64, dtype=dtype, device=CUDA)
    k = torch.randn(2, 70, kv_heads, 64, dtype=dtype, device=CUDA)
    _, lse = kernel.attention(q, k, k, 0.2)
    keys = k.float().repeat_interleave(2 // kv_heads, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), keys) * 0.2
    torch.testing.assert_close(lse.float(), scores.logsumexp(-1), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
@pytest.mark.parametrize("head_size", [64, 80, 96, 256])
def test_other_head_sizes(name: str, dtype: torch.dtype, head_size: int) -> None:
    """What start-up would find for such a model; models here have 128."""
    assert self_test(running(name, dtype, head_size), CUDA, dtype, head_size) is None


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_overlapping_windows(name: str, dtype: torch.dtype, kv_heads: int) -> None:
    """Runs that share most of their keys, go back, end within a tile or are empty, in one call without a copy."""
    kernel = running(name, dtype)
    q_rows = (150, 150, 77, 1, 300, 20)
    first_keys, key_rows = (0, 100, 37, 500, 0, 0), (700, 650, 129, 1, 0, 901)
    q_starts = [sum(q_rows[:i]) for i in range(len(q_rows) + 1)]
    q = torch.randn(sum(q_rows), 4, 128, dtype=dtype, device=CUDA) * 3
    k, v = torch.randn(2, 901, kv_heads, 128, dtype=dtype, device=CUDA)
    starts, firsts, lengths = (
        torch.tensor(x, dtype=torch.int32, device=CUDA) for x in (q_starts, (*first_keys, first_keys[-1]), key_rows)
    )
    groups = Tables(starts, starts, firsts, lengths, (max(q_rows), max(key_rows)))  # their order does not matter here
    poisoned()
    out, lse = kernel.varlen(q, k, v, groups, 128**-0.5)
    for group, (first, rows) in enumerate(zip(first_keys, key_rows, strict=True)):
        held = slice(q_starts[group], q_starts[group + 1])
        if not rows:
            assert lse[:, held].isinf().all()
            continue
        expected, expected_lse = written_out(q[held], k[first : first + rows], v[first : first + rows])
        torch.testing.assert_close(lse[:, held].float(), expected_lse, rtol=1e-3, atol=1e-2)
        assert (out[held].float() - expected).abs().max() <= TOLERANCE[dtype]


def written_out(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention [S, H, D] and its log-sum-exp [H, S] in float32."""
    keys, values = (x.float().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys) * q.shape[2] ** -0.5
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values), scores.logsumexp(-1)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
@pytest.mark.parametrize("size", [128, 80])
def test_merge_in_one_pass(dtype: torch.dtype, size: int) -> None:
    """Triton's merge and PyTorch's, on strided views, with rows that have no keys on either sign of infinity."""
    if reason := passed_over(CUDA):
        pytest.skip(f"Triton's merge: {reason}")
    from lvsa_core.kernels.triton_merge import merge_triton_

    base = torch.randn(3, 100, 5, size, dtype=dtype, device=CUDA)
    out, kept = base[:, 10:87, 1:4], base.clone()  # 77 rows: the last block in part
    other = torch.randn(3, 77, 3, size, dtype=dtype, device=CUDA)
    lse = (torch.randn(3, 77, 3, device=CUDA) * 4).transpose(1, 2)
    other_lse = torch.randn(3, 3, 77, device=CUDA) * 4
    other_lse[0, :, 5], other_lse[1, 2, 70] = float("inf"), float("-inf")
    expected = out.clone()
    merge_eager_(expected, lse, other, other_lse)

    other[0, 5], other[1, 70, 2] = float("nan"), float("nan")  # of a row without keys nothing may be read
    merge_triton_(out, lse, other, other_lse)
    close = max(2 * torch.finfo(dtype).eps, 1e-5)  # the GPU's exponential has lost some digits
    torch.testing.assert_close(out, expected, rtol=close, atol=close)
    assert torch.equal(out[0, 5], kept[0, 15, 1:4])
    kept[:, 10:87, 1:4] = out
    assert torch.equal(base, kept)  # nothing is written beside the view


def test_not_everything_is_skipped() -> None:
    """PyTorch's own kernels need nothing that could be missing."""
    if torch.cuda.get_device_capability(CUDA) < (8, 0):
        pytest.skip("this device is older than Ampere")
    assert [name for name in ("FlashAttention2", "sdpa") if KERNELS[name].available(CUDA, BF16, 128)] == []

"""The attention on a GPU against the oracle; the CPU's tests cover the layouts in full."""

import pytest
import torch

from lvsa_core import FrameGrid, TokenLayout, attend, plan, reference_attend
from lvsa_core.kernels import select

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}

LAYOUTS = [
    TokenLayout(FrameGrid(41, 60)),
    TokenLayout(FrameGrid(26, 33), pad=3),
    TokenLayout(FrameGrid(25, 16), kv_before=7),
    TokenLayout(FrameGrid(25, 16), kv_after=5, q_after=5),
    TokenLayout(FrameGrid(25, 16), q_offset=101, q_rows=77),
]


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("batch", "heads", "kv_heads"), [(1, 4, 4), (2, 4, 2)])
def test_equals_the_oracle(dtype: torch.dtype, layout: TokenLayout, batch: int, heads: int, kv_heads: int) -> None:
    q = torch.randn(batch, layout.q_tokens, heads, 128, dtype=dtype, device="cuda")
    k, v = torch.randn(2, batch, layout.kv_tokens, kv_heads, 128, dtype=dtype, device="cuda")
    pattern = plan(layout.grid.frames, reference_frames=21, step=1)
    difference = attend(q, k, v, pattern, layout).float() - reference_attend(q, k, v, pattern, layout).float()
    assert difference.abs().max() < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("rows", [1, 33, 200])
def test_the_log_sum_exp(dtype: torch.dtype, rows: int) -> None:
    q, k = (torch.randn(2, tokens, 2, 64, dtype=dtype, device="cuda") for tokens in (rows, 70))
    _, lse = select("auto", q.device, dtype, 64).attention(q, k, k, 0.2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k.float()) * 0.2
    torch.testing.assert_close(lse.float(), scores.logsumexp(-1), rtol=1e-3, atol=1e-2)

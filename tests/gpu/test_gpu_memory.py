"""What a call needs besides inputs and output, and that it is right where a tensor passes 2**31 elements."""

import pytest
import torch
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, reference_attend
from lvsa_core.kernels.selftest import TOLERANCE
from lvsa_vllm_omni.measure.timing import peak_memory
from tests.support.gpu_calls import CUDA, names, pattern_of, random_qkv, running

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SLACK = 16 * 2**20
LAYOUTS = [TokenLayout(FrameGrid(41, 780)), TokenLayout(FrameGrid(41, 780), kv_before=333, kv_after=512, q_after=512)]
BIG = TokenLayout(FrameGrid(121, 3600))  # 720p
BIG_HEADS = 40


@pytest.mark.parametrize("name", ["auto", *names("flash", "sdpa", without="-concatenated")])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["video", "with text"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(16, 16), (16, 4)])
def test_bound(name: str, layout: TokenLayout, heads: int, kv_heads: int) -> None:
    """At most one copy of Q, K and V and two log-sum-exps, of which nothing is kept."""
    if name != "auto":
        running(name)
    q, k, v = random_qkv(layout, heads, kv_heads)
    pattern = pattern_of(layout)
    attend(q, k, v, pattern, layout, kernel=name)  # tables and workspaces stay
    extra = peak_memory(lambda: attend(q, k, v, pattern, layout, kernel=name), CUDA) - q.nbytes
    assert extra <= q.nbytes + k.nbytes + v.nbytes + 2 * 4 * heads * layout.q_tokens + SLACK

    before = torch.cuda.memory_allocated(CUDA)
    out = attend(q, k, v, pattern, layout, kernel=name)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated(CUDA) - before == out.nbytes


@pytest.fixture
def big_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Of 720p with T=121: 4.5 GB each."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info(CUDA)[0] < 60 * 2**30:
        pytest.skip("it takes 60 GiB of free memory")
    return random_qkv(BIG, BIG_HEADS, BIG_HEADS)


@pytest.mark.parametrize("name", names("flash", "flashinfer", "sdpa", without="-concatenated"))
def test_more_elements_than_32_bits_count(name: str, big_inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    running(name)
    q, k, v = big_inputs
    assert q.numel() > 2**31
    pattern, patches, last = pattern_of(BIG), BIG.grid.patches, BIG.grid.frames - 1
    frames = [0, 1, 2, 60, last - 4, last - 1, last]  # row 2**31 / (40 * 128) is in frame 116
    rows = [frame * patches + row for frame in frames for row in (0, 1777, patches - 1)]
    out = attend(q, k, v, pattern, BIG, kernel=name)[0, rows].float()
    assert (out - exact_rows(q, k, v, rows, pattern, BIG)).abs().max() <= TOLERANCE[q.dtype]


def exact_rows(q: Tensor, k: Tensor, v: Tensor, rows: list[int], pattern: Pattern, layout: TokenLayout) -> Tensor:
    """Some rows [n, H, D] of the output in float32, head by head; for a layout of video only."""
    frames, patches = layout.grid.frames, layout.grid.patches
    seen = torch.tensor([[pattern.allows(row // patches, frame) for frame in range(frames)] for row in rows])
    hidden = ~seen.repeat_interleave(patches, 1).to(q.device)
    group, heads = q.shape[2] // k.shape[2], []
    for head in range(q.shape[2]):
        keys, values = (x[0, :, head // group].float() for x in (k, v))
        scores = (q[0, rows, head].float() @ keys.T * q.shape[3] ** -0.5).masked_fill(hidden, float("-inf"))
        heads.append(scores.softmax(-1) @ values)
    return torch.stack(heads, 1)


def test_the_exact_rows() -> None:
    """The spot check itself, against the oracle on a small call."""
    layout = TokenLayout(FrameGrid(41, 30))
    inputs, rows = random_qkv(layout, 4, 2), [0, 29, 30, 700, 1229]
    expected = reference_attend(*(x.float() for x in inputs), pattern_of(layout), layout)[0, rows]
    torch.testing.assert_close(exact_rows(*inputs, rows, pattern_of(layout), layout), expected, rtol=1e-3, atol=1e-4)

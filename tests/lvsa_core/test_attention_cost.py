"""What ``attend`` does not do: loop over frames, build masks, copy the context of every frame, hold much memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from lvsa_core import FrameGrid, TokenLayout, attend, plan
from lvsa_core.kernels.prefix_window import GatheredWindow
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_vllm_omni.measure import timing
from tests.support.strategies import arranged

LENGTHS = (41, 61, 81, 121, 161, 241)


class CountingKernel(SdpaKernel):
    """PyTorch's kernels, and how often they ran on how much."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []  # rows of queries, pairs of query and key

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        self.calls.append((q.shape[0] * q.shape[1], q.shape[0] * q.shape[1] * k.shape[1]))
        return super().attention(q, k, v, scale)


class HollowKernel(SdpaKernel):
    """Allocates what a kernel returns and nothing else."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return torch.zeros(q.shape, dtype=q.dtype), torch.zeros(q.shape[0], q.shape[2], q.shape[1])


class HollowGatheredKernel(GatheredWindow, HollowKernel):
    """The same on copied windows."""


@pytest.fixture
def counting() -> CountingKernel:
    return CountingKernel()


class Operators(TorchDispatchMode):
    """Records every operator, and the elements that it wrote to memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.written: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        if not func.is_view:
            self.written += [
                x.numel() for x in (out if isinstance(out, tuple | list) else (out,)) if torch.is_tensor(x)
            ]
        return out


def inputs(layout: TokenLayout, heads: int = 2, size: int = 8, batch: int = 1, **kwargs: Any) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    shape = (batch, layout.q_tokens, heads, size)
    return arranged("contiguous", 3, shape, kwargs.get("dtype", torch.float32), noise)


def test_kernel_calls_do_not_follow_the_frames(counting: CountingKernel) -> None:
    counts = {}
    for frames in (*LENGTHS, 481):
        for step in range(3):
            layout, pattern = TokenLayout(FrameGrid(frames, 3)), plan(frames, reference_frames=21, step=step)
            counting.calls.clear()
            counting.attend(*inputs(layout), pattern, layout, 0.3)
            counts[frames, step] = len(counting.calls)
            # The prefix is one call with all queries. All calls together are exactly the attended pairs, none twice.
            assert counting.calls[0] == (layout.q_tokens, layout.q_tokens * len(pattern.anchors) * 3)
            assert sum(pairs for _, pairs in counting.calls) == round(pattern.density * layout.q_tokens**2)
            assert all(rows <= layout.q_tokens / 6 + 3 for rows, _ in counting.calls[1:])
    assert max(counts[frames, step] for frames, step in counts if frames <= 241) <= 20
    assert max(counts.values()) <= 40
    slope = (max(counts[241, step] for step in range(3)) - min(counts[41, step] for step in range(3))) / (241 - 41)
    assert slope < 0.1  # a loop over frames: 1


def test_kernel_calls_of_one_request_are_the_layouts_too(counting: CountingKernel) -> None:
    """Text and batch entries add calls of their own, padding adds none."""
    pattern, grid = plan(41, reference_frames=21), FrameGrid(41, 3)

    def calls(layout: TokenLayout, batch: int = 1) -> int:
        counting.calls.clear()
        counting.attend(*inputs(layout, batch=batch), pattern, layout, 0.3)
        return len(counting.calls)

    alone = calls(TokenLayout(grid))
    assert calls(TokenLayout(grid, pad=5)) == alone
    assert calls(TokenLayout(grid, kv_after=7, q_after=7)) == alone + 1
    assert calls(TokenLayout(grid), batch=2) == 1 + 2 * (alone - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_and_what_they_write(dtype: torch.dtype) -> None:
    seen = {}
    for frames in LENGTHS:
        layout, pattern = TokenLayout(FrameGrid(frames, 6)), plan(frames, reference_frames=21)
        q, k, v = inputs(layout, dtype=dtype)
        attend(q, k, v, pattern, layout)  # the second call finds the plan made
        with Operators() as seen[frames]:
            attend(q, k, v, pattern, layout)
        # The copies of K and V (made, then filled), the output, that of the windows, and the passes of their merge. A
        # copy of every frame's context would be 2 * 21 times Q.
        assert sum(seen[frames].written) < 12 * q.numel()
        assert max(seen[frames].written) <= q.numel()
    assert seen[241].calls < 27 * 20
    assert (seen[241].calls - seen[41].calls) / (241 - 41) < 2.5  # a loop over frames: more than 10


def peak_memory(function: Any) -> int:
    return timing.peak_memory(function, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("frames", "batch"), [(22, 1), (41, 1), (41, 2), (121, 1)])
@pytest.mark.parametrize("text", [0, 20])
def test_peak_memory(frames: int, batch: int, text: int, dtype: torch.dtype) -> None:
    """Beyond inputs and output at most one permuted copy of Q, K and V and the log-sum-exps."""
    layout = TokenLayout(FrameGrid(frames, 40), kv_after=text, q_after=text)
    pattern = plan(frames, reference_frames=21, step=1)
    q, k, v = inputs(layout, heads=2, size=64, batch=batch, dtype=dtype)
    log_sum_exps = 2 * 4 * batch * 2 * layout.q_tokens  # of the prefix; less than that of a batch of windows
    bound = q.nbytes + k.nbytes + v.nbytes + log_sum_exps

    for hollow in [HollowKernel(), HollowGatheredKernel()][: 1 + (dtype == torch.float32)]:
        hollow.attend(q, k, v, pattern, layout, 0.1)
        assert peak_memory(lambda: hollow.attend(q, k, v, pattern, layout, 0.1)) - q.nbytes <= bound  # noqa: B023

    attend(q, k, v, pattern, layout)  # chooses and tests its kernel
    # PyTorch's kernel has buffers of its own, which the dense call needs as well.
    dense = peak_memory(lambda: scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))) - q.nbytes
    assert peak_memory(lambda: attend(q, k, v, pattern, layout)) - q.nbytes <= bound + dense


def test_dense_pattern_copies_nothing() -> None:
    layout = TokenLayout(FrameGrid(21, 6), kv_after=5, q_after=5)
    q, k, v = inputs(layout)
    with Operators() as seen:
        attend(q, k, v, plan(21, reference_frames=21), layout)
    assert sum(seen.written) < 1.5 * q.numel()

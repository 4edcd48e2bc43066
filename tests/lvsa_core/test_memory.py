"""Memory beside inputs and output: counted, kept within a budget by groups of heads, and what happens when it ends."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, memory, plan
from lvsa_core.attention import compute
from lvsa_core.kernels.prefix_window import Arriving, GatheredWindow
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_core.memory import CallSize, HeadGroups
from lvsa_core.positions import Remap, TemporalAxis
from lvsa_vllm_omni.measure.timing import peak_memory

CPU = torch.device("cpu")
LAYOUT = TokenLayout(FrameGrid(41, 60), kv_before=9, kv_after=33, q_after=33)
PATTERN = plan(41, reference_frames=21)
MOVED = plan(41, reference_frames=21, anchor_boost=1.0, remap=Remap(21, TemporalAxis.of(12, 1e4)))


def inputs(heads: int = 8, kv_heads: int = 4, batch: int = 1, size: int = 32) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    shapes = [(LAYOUT.q_tokens, heads), *[(LAYOUT.kv_tokens, kv_heads)] * 2]
    return [torch.randn(batch, tokens, count, size, generator=noise) for tokens, count in shapes]


class Hollow(SdpaKernel):
    """Allocates what a kernel returns, and its output for the windows at once, as kernels of varying lengths do."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return q.new_zeros(q.shape), q.new_zeros(q.shape[0], q.shape[2], q.shape[1])

    def windows(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Any, scale: float) -> None:
        window, window_lse = self.attention(q[None], k[None], v[None], scale)
        out += window[0]
        lse += window_lse[0]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 8), (8, 4), (6, 3)])
def test_the_bytes_are_those_of_the_formula(batch: int, heads: int, kv_heads: int) -> None:
    """Of a kernel that takes what the formula says; real ones take less."""
    q, k, v = inputs(heads, kv_heads, batch)
    size = CallSize.of(q, k)
    for count in range(1, kv_heads + 1):
        groups = HeadGroups((size.extra(count) + 1) / memory.GB)
        assert groups.count(size, CPU) == size.groups_within(size.extra(count)) <= count

        def run(groups: HeadGroups = groups) -> Tensor:
            return compute(Hollow(), q, k, v, PATTERN, LAYOUT, 0.2, groups)

        run()
        taken = peak_memory(run, CPU) - q.nbytes
        allowed = size.extra(groups.count(size, CPU))
        assert allowed * 0.97 - 2**14 <= taken <= allowed + 2**14, count


@pytest.mark.parametrize("kernel", [SdpaKernel(), type("Gathered", (GatheredWindow, SdpaKernel), {})()])
@pytest.mark.parametrize("pattern", [PATTERN, MOVED], ids=["plain", "moved"])
def test_kernels_stay_within_a_budget(kernel: Any, pattern: Pattern) -> None:
    q, k, v = inputs(batch=2)
    size = CallSize.of(q, k, moved=pattern is MOVED)
    expected = compute(kernel, q, k, v, pattern, LAYOUT, 0.2)
    for count in (1, 2, 4):
        groups = HeadGroups((size.extra(count) + 1) / memory.GB)
        out = compute(kernel, q, k, v, pattern, LAYOUT, 0.2, groups)
        torch.testing.assert_close(out, expected)
        taken = peak_memory(lambda groups=groups: compute(kernel, q, k, v, pattern, LAYOUT, 0.2, groups), CPU)  # type: ignore[misc]
        merging = 3 * q.nbytes // 6 // groups.count(size, CPU)  # PyTorch's operators merge through copies
        assert taken - q.nbytes <= size.extra(groups.count(size, CPU)) + merging


@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 4), (16, 1)])
def test_moved_anchors_take_a_copy_of_the_queries(heads: int, kv_heads: int) -> None:
    """Which is counted, and without which the count would be too small."""
    q, k, v = inputs(heads, kv_heads)
    taken = peak_memory(lambda: compute(SdpaKernel(), q, k, v, MOVED, LAYOUT, 0.2), CPU) - q.nbytes
    assert CallSize.of(q, k).extra() < taken <= CallSize.of(q, k, moved=True).extra()


def test_the_size_that_the_budget_is_for() -> None:
    """Wan 14B at 720p and T=121, where dense attention just fits 80 GB: K and V, the windows, the log-sum-exps."""
    size = CallSize(1, 121 * 3600, 121 * 3600, 40, 40, 128, 2)
    one = 121 * 3600 * 40 * 128 * 2
    assert size.extra() == 3 * one + 2 * 121 * 3600 * 40 * 4 == 13_521_024_000
    assert size.groups_within(5e9) == 3 and size.extra(4) == size.extra() // 4
    assert size.groups_within(0) == 40 and size.groups_within(1e12) == 1


@given(kv_heads=some.integers(1, 40), shared=some.integers(1, 4), groups=some.integers(1, 50))
def test_every_head_is_in_one_group(kv_heads: int, shared: int, groups: int) -> None:
    size = CallSize(1, 10, 12, kv_heads * shared, kv_heads, 8, 2)
    parts = list(size.slices(groups))
    assert [i for _, part in parts for i in range(*part.indices(kv_heads))] == list(range(kv_heads))
    assert all((ours.start, ours.stop) == (part.start * shared, part.stop * shared) for ours, part in parts)
    assert len(parts) <= groups and (groups == 1 or size.extra(groups + 1) <= size.extra(groups))


def test_it_is_decided_once_for_a_size_and_said() -> None:
    said: list[str] = []
    size = CallSize(1, 1000, 1000, 4, 4, 128, 2)
    groups = HeadGroups((size.extra(2) + 1) / memory.GB, said.append)
    assert [groups.count(size, CPU) for _ in range(3)] == [2, 2, 2]
    assert said == [
        "attention works in 2 groups of heads and takes 0.00155 GB beside its inputs and output, instead of 0.0031 GB "
        "with all heads at once: 0.00155 GB may be used"
    ]
    other = HeadGroups(None, said.append)
    assert other.count(size, CPU) == 1 and len(said) == 1


def test_what_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver has, and what PyTorch keeps without use."""
    assert memory.free_bytes(CPU) == float("inf")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3e9, 80e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70e9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 68e9)
    assert memory.free_bytes(torch.device("cuda")) == pytest.approx(4.5e9)
    size = CallSize(1, 121 * 3600, 121 * 3600, 40, 40, 128, 2)
    assert HeadGroups().count(size, torch.device("cuda")) == 4


class Full(SdpaKernel):
    """Runs out of memory until it gets few enough heads."""

    name = family = "full"

    def __init__(self, fits: int) -> None:
        self.fits, self.tried = fits, []  # type: ignore[var-annotated]

    def attend(self, q: Tensor, *given: Any, **more: Any) -> Tensor:
        self.tried.append(q.shape[2])
        if q.shape[2] > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().attend(q, *given, **more)


def test_out_of_memory_tries_smaller_groups_once() -> None:
    q, k, v = inputs(8, 8)
    said: list[str] = []
    groups, kernel = HeadGroups(None, said.append), Full(fits=2)
    expected = compute(SdpaKernel(), q, k, v, PATTERN, LAYOUT, 0.2)
    torch.testing.assert_close(compute(kernel, q, k, v, PATTERN, LAYOUT, 0.2, groups), expected)
    assert kernel.tried == [8, 2, 2, 2, 2] and said[0].endswith("with 1 memory ran out")
    kernel.tried.clear()
    compute(kernel, q, k, v, PATTERN, LAYOUT, 0.2, groups)
    assert kernel.tried == [2, 2, 2, 2], "it remembers"
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        compute(Full(fits=1), q, k, v, PATTERN, LAYOUT, 0.2)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        compute(Full(fits=0), q[:, :, :1], k[:, :, :1], v[:, :, :1], PATTERN, LAYOUT, 0.2)


def test_keys_that_arrive_are_waited_for_once() -> None:
    """The first group of heads waits; after running out of memory nothing is left to wait for but the keys."""
    pattern, layout = plan(41, reference_frames=21), TokenLayout(FrameGrid(41, 6))
    noise = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, layout.q_tokens, 4, 8, generator=noise) for _ in range(3))
    order = [*pattern.anchors, *sorted({*range(41)}.difference(pattern.anchors))]
    held = TokenLayout(FrameGrid(41, 6), kv_frames=tuple(order))
    rows = torch.tensor(order).repeat_interleave(6) * 6 + torch.arange(6).repeat(41)
    waits: list[int] = []
    expected = compute(SdpaKernel(), q, k, v, pattern, layout, 0.3)
    for kernel, budget in ((SdpaKernel(), 0.0), (Full(fits=1), None)):
        arriving = Arriving(12, lambda: waits.append(1))
        out = compute(kernel, q, k[:, rows], v[:, rows], pattern, held, 0.3, HeadGroups(budget), arriving)
        torch.testing.assert_close(out, expected)
    assert len(waits) == 2


@pytest.mark.parametrize(("kernel", "pattern"), [("sdpa", PATTERN), ("sdpa-concatenated", PATTERN), ("sdpa", MOVED)])
def test_attend_takes_groups(kernel: str, pattern: Pattern) -> None:
    """The second kernel has an output of its own for each group."""
    q, k, v = inputs()
    expected = attend(q, k, v, pattern, LAYOUT)
    found = attend(q, k, v, pattern, LAYOUT, kernel=kernel, head_groups=HeadGroups(0.0))
    torch.testing.assert_close(found, expected)

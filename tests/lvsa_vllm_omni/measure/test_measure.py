"""What the benchmarks measure with."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lvsa_core import FrameGrid, TokenLayout, plan
from lvsa_core.cascade import cascade
from lvsa_core.kernels import KERNELS, KernelUnavailable
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_vllm_omni.measure import timing as measure
from lvsa_vllm_omni.measure.dense import DENSE, FLASH3, pytorch
from lvsa_vllm_omni.measure.machine import command, facts
from lvsa_vllm_omni.measure.timing import PARTS, interleaved, medians, parts_of, peak_memory, seconds

CPU = torch.device("cpu")


def test_sides_take_turns() -> None:
    order: list[str] = []
    times, _ = interleaved({name: lambda name=name: order.append(name) for name in "abc"}, CPU, repeats=30)
    turns = {"".join(order[at : at + 3]) for at in range(0, len(order), 3)}  # the first is the warm-up
    assert turns == {"".join(turn) for turn in itertools.permutations("abc")}
    assert {name: len(values) for name, values in times.items()} == {"a": 30, "b": 30, "c": 30}
    assert all(value > 0 for values in times.values() for value in values)


def clock(monkeypatch: pytest.MonkeyPatch, others: Iterator[float]) -> None:
    """Let other programs have used so many processor seconds when asked."""
    monkeypatch.setattr(measure, "_processor_seconds", lambda: next(others) + measure.time.process_time())


def test_disturbed_runs_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    # Before and after each run; others have the processors in the first two runs, and in none after.
    clock(monkeypatch, itertools.chain([0.0, 9.0, 9.0, 18.0], itertools.repeat(18.0)))
    times, quiet = interleaved({"a": lambda: runs.append(0)}, CPU, repeats=2, patience=60)
    assert quiet and len(times["a"]) == 2 and len(runs) == 1 + 4


def test_without_quiet_runs_all_count_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, itertools.count(0.0, 9.0))
    times, quiet = interleaved({"a": lambda: None}, CPU, repeats=2, patience=0.01)
    assert not quiet and len(times["a"]) >= 2


def test_seconds_and_medians() -> None:
    assert seconds(lambda: measure.time.sleep(0.02), CPU) >= 0.02
    assert medians({"a": [3.0, 1.0, 2.0], "b": [1.0, 2.0]}) == {"a": 2.0, "b": 1.5}


def test_peak_memory() -> None:
    x = torch.empty(1 << 20)
    assert 0 <= peak_memory(lambda: [x + 1, x + 2], CPU) - 2 * x.nbytes < 100
    assert 0 <= peak_memory(lambda: (x + 1).sum() + (x + 2).sum(), CPU) - x.nbytes < 100
    assert peak_memory(lambda: None, CPU) == 0


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["/somewhere/bin/lvsa", "bench", "--json", "a b.json"], "lvsa bench --json 'a b.json'"),
        (["benchmarks/gpu.py", "--json", "/home/me/r.json"], "python benchmarks/gpu.py --json r.json"),
        (["benchmarks/gpu.py", "--json=/home/me/r.json"], "python benchmarks/gpu.py --json=r.json"),
        (["benchmarks/gpu.py", "--json", "results/r.json"], "python benchmarks/gpu.py --json results/r.json"),
    ],
)
def test_a_command_names_no_folder_of_the_machine(arguments: list[str], written: str) -> None:
    assert command(arguments) == written


def test_facts() -> None:
    found = facts(CPU, commit="1234567")
    assert {*found} == {"date", "command", "commit", "processor", "device", "driver", "versions"}
    assert found["device"] is found["driver"] is None and found["commit"] == "1234567"
    assert f"torch {torch.__version__}" in found["versions"] and "diffusers " in found["versions"]


def test_dense_attention() -> None:
    """All kernels that run here give what PyTorch's does, and the others say why they do not."""
    q, k, v = torch.randn(1, 9, 4, 8), torch.randn(1, 7, 2, 8), torch.randn(1, 7, 2, 8)
    wide = (x.repeat_interleave(2, 2) for x in (k, v))
    torch.testing.assert_close(DENSE["SDPA flash"](q, *wide, 0.3), pytorch(q, k, v, 0.3))
    for name in ("FlashAttention-3", "FlashInfer"):
        with pytest.raises(KernelUnavailable, match="CUDA"):
            DENSE[name](q, k, v, 0.3)
    assert {*FLASH3} <= {*KERNELS}


def test_parts_of_a_call() -> None:
    layout, pattern = TokenLayout(FrameGrid(25, 4)), plan(25, reference_frames=21)
    inputs = torch.randn(3, 1, 100, 2, 8)
    parts = parts_of(KERNELS["sdpa"], *inputs, pattern, layout, 2)
    assert parts is not None and {*parts} == {*PARTS} and min(parts.values()) > 0
    assert vars(KERNELS["sdpa"]) == vars(SdpaKernel())  # it was a copy that was watched
    assert parts_of(KERNELS["sdpa-concatenated"], *inputs, pattern, layout, 2) is None


def test_each_part_is_counted_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose prefix and windows take known times; the clock is one that they set forward."""
    now = 0.0

    class Slow(SdpaKernel):
        def attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> Any:
            nonlocal now
            now += 100.0 if q.shape[1] == 100 else 1.0
            return super().attention(q, k, v, scale)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    layout, pattern = TokenLayout(FrameGrid(25, 4)), plan(25, reference_frames=21)
    parts = parts_of(Slow(), *torch.randn(3, 1, 100, 2, 8), pattern, layout, 1)
    batches = len(cascade(pattern, layout).batches)
    assert parts == {"copies": 0.0, "prefix": 100.0, "windows": float(batches), "merge": 0.0}

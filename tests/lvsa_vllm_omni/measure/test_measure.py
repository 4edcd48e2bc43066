"""What the benchmarks measure with."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from lvsa_core import FrameGrid, TokenLayout, plan
from lvsa_core.kernels import KERNELS
from lvsa_vllm_omni.measure import stopwatch
from lvsa_vllm_omni.measure import timing as measure
from lvsa_vllm_omni.measure.timing import facts, interleaved, medians, peak_memory, seconds

CPU = torch.device("cpu")


def test_sides_take_turns() -> None:
    order: list[str] = []
    times, _ = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, CPU, repeats=3)
    assert "".join(order) == "ab" * 4  # the first is the warm-up
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
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


def test_facts_name_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/lvsa", "bench", "--json", "a b.json"])
    assert facts(CPU)["command"] == "lvsa bench --json 'a b.json'"
    monkeypatch.setattr("sys.argv", ["benchmarks/gpu.py"])
    assert facts(CPU)["command"] == "python benchmarks/gpu.py"
    assert set(facts(CPU)) == {"date", "command", "processor", "versions"}


def test_parts_of_a_call() -> None:
    layout, pattern = TokenLayout(FrameGrid(25, 4)), plan(25, reference_frames=21)
    q, k, v = torch.randn(3, 1, 100, 2, 8)
    for name, whole in (("sdpa", True), ("sdpa-concatenated", False)):
        kernel = KERNELS[name]
        parts = stopwatch.parts_of(kernel, lambda kernel=kernel: kernel.attend(q, k, v, pattern, layout, 0.3), CPU, 2)
        if whole:
            assert parts is not None and set(parts) == {"copies", "prefix", "windows", "merge"}
            assert all(value > 0 for value in parts.values())
        else:
            assert parts is None
        assert "attention" not in vars(kernel)  # the watch is off again

"""The benchmark of denoising steps runs on the CPU, on diffusers' transformers; no time of it is judged here."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from gpu_step import CASES, Steps, describe, judge, lines
from models import MODELS
from sides import Job, Setting

pytest.importorskip("accelerate", reason="the steps need diffusers with accelerate")
pytest.importorskip("diffusers", reason="the steps need diffusers")
import step
from step import DENSE, DenoisingStep, blocks, build, timed, warm_up

CPU = torch.device("cpu")
NAMES = ["wan-1.3b", "hunyuan-video-1.5"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Calls this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """Two models at two lengths, as the process of the benchmark does them."""
    jobs = [Job("step", name, t) for name in NAMES for t in (21, 81)]
    found: dict[str, dict[str, Any]] = {}
    Steps(Setting("cpu", tiny=True))(jobs, lambda job, row: found.update({str(job): {"model": job.model, **row}}))
    return found


def test_cases(rows: dict[str, dict[str, Any]]) -> None:
    assert [*rows] == [f"step, {name} T={t}" for name in NAMES for t in (21, 81)]
    for case in rows.values():
        assert case["result"] == "right", case
        sparse = case["frames"] == 321
        assert (case["latent_frames"], case["layers"], case["repeats"]) == (81 if sparse else 21, 2, 2)
        assert (case["density"] < 1, case["dense_pattern"]) == (sparse, not sparse)
        assert case["dense"] == "SDPA flash" and {*case["dense_failed"]} == {"FlashAttention-3", "SDPA cuDNN"}
        assert case["kernel"] == ("sdpa" if sparse else "dense SDPA flash")
        assert ("4 of 4 steps sparse" in case["report"]) == sparse  # by its own word: two of warm-up, two runs
        assert case["ratio"] == pytest.approx(case["seconds"]["dense"] / case["seconds"]["lvsa"])
        assert all(case["attention_share"][side] > 0 and len(case["times"][side]) == 2 for side in case["times"])
        assert not case["compiled"] and case["met"] is None  # no FlashAttention-3 here
    assert [case["target"] for case in rows.values()] == ["within 1%", "at least 2.4", "within 1%", ""]


def test_what_is_said(rows: dict[str, dict[str, Any]]) -> None:
    said = "\n".join([*describe(rows["step, wan-1.3b T=81"]), *lines([*rows.values()])])
    assert "wan-1.3b, 321 frames: T=81, 324 tokens, density 0.259, 2 blocks, 2 runs" in said
    assert "dense takes SDPA flash, LVSA sdpa (" in said and "| at least 2.4 | not judged |" in said


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_compute_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer of the dense side attends to everything, on the dense kernel; of LVSA's side none does."""
    model, noise, calls = MODELS[name].small(), torch.Generator().manual_seed(0), []

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        calls.append(q.shape[1])
        return DENSE["SDPA flash"](q, k, v, scale)

    monkeypatch.setattr(step, "_dense", dense)
    one = DenoisingStep(model, build(model, CPU, torch.float32), 41, noise)
    expected = one("dense")
    assert calls == [model.layout(41).q_tokens] * 4  # two blocks, with and without the prompt
    calls.clear()
    one.time += 1
    assert not torch.allclose(one("lvsa"), expected)
    one("lvsa")
    report = one.lvsa.report()
    assert calls == [] and (report.steps, report.sparse_steps, report.frames) == (2, 2, 41)

    one.close()
    assert [layer.processor for layer in one.layers] == one.restored
    one.processors["lvsa"], one.time = one.processors["dense"], 1000.0
    torch.testing.assert_close(one("lvsa"), expected)  # without LVSA that is the dense side


@pytest.mark.parametrize(("name", "billions"), [("wan-1.3b", 1.42), ("wan-14b", 14.3), ("hunyuan-video-1.5", 8.33)])
def test_parameters(name: str, billions: float) -> None:
    """As many as the published models have; none are made."""
    transformer = build(MODELS[name], torch.device("meta"), torch.bfloat16)
    assert sum(weight.numel() for weight in transformer.parameters()) == pytest.approx(billions * 1e9, rel=0.01)
    dtypes = {weight.dtype for weight in transformer.parameters()}
    assert dtypes == ({torch.bfloat16, torch.float32} if name.startswith("wan") else {torch.bfloat16})


def test_where_compiling_fails_blocks_run_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model, noise = MODELS["wan-1.3b"].small(), torch.Generator().manual_seed(0)

    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no C compiler\nin PATH")

    monkeypatch.setattr(torch, "compile", broken)
    one = DenoisingStep(model, build(model, CPU, torch.float32), 22, noise)
    assert warm_up(one, True) == "RuntimeError: no C compiler"
    assert one("lvsa").isfinite().all() and len(blocks(one.transformer)) == 2


@pytest.mark.parametrize(
    ("model", "frames", "ratio", "kernel", "expected"),
    [
        ("wan-1.3b", 321, 2.41, "FlashAttention-3", ("at least 2.4", True)),
        ("wan-1.3b", 481, 3.39, "FlashAttention-3", ("at least 3.4", False)),
        ("wan-1.3b", 321, 2.41, "SDPA flash", ("at least 2.4", None)),
        ("wan-1.3b", 161, 1.5, "FlashAttention-3", ("", None)),
        ("wan-14b", 81, 0.98, "FlashAttention-3", ("within 1%", False)),
    ],
)
def test_targets(model: str, frames: int, ratio: float, kernel: str, expected: tuple[str, bool | None]) -> None:
    case = {"model": model, "frames": frames, "ratio": ratio, "dense_pattern": frames == 81}
    assert judge({**case, "layer_seconds": {kernel: 0.1}}) == expected


@pytest.mark.parametrize(("took", "runs"), [(0.1, 15), (1.0, 6), (5.0, 2), (7.0, 1)])
def test_the_number_of_runs(took: float, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least two of each side, but one of a very long step; at most what fits."""

    class OneStep:
        device = CPU

        def __call__(self, side: str) -> torch.Tensor:
            return torch.zeros(1)

    def lasts(call: Callable[[], object], device: torch.device) -> float:
        call()
        return took

    monkeypatch.setattr(step, "seconds", lasts)
    assert len(timed(OneStep(), 12.0, 15)[0]["lvsa"]) == runs  # type: ignore[arg-type]


def test_order() -> None:
    """Neighbours are of one model; the length of training, whose times must be equal, is the cheapest."""
    assert CASES[0] == ("wan-1.3b", 21) and len({*CASES}) == len(CASES)
    assert [name for name, _ in CASES] == sorted((name for name, _ in CASES), key=["wan-1.3b", "wan-14b"].index)


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "step", None)
    found: list[Any] = []
    Steps(Setting("cpu", tiny=True))([Job("step", "wan-1.3b", 21)], lambda job, row: found.append(row))
    assert found[0]["result"] == "unavailable" and "benchmarks/carry.txt" in found[0]["reason"]

"""The benchmark of denoising steps runs on the CPU, on diffusers' transformers; no time of it is judged here."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_step
import pytest
import step
import torch
from gpu_step import FIRST, FRAMES, START_SECONDS, expected_step, fewest, judge, ordered_cases
from models import MODELS
from step import DENSE, DenoisingStep, blocks, build, warm_up

CPU = torch.device("cpu")
NAMES = ["wan-1.3b", "hunyuan-video-1.5"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Calls this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(*arguments: str) -> tuple[int, str]:
    """The exit status of the command and what it says."""
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        patch.setattr(sys, "argv", ["benchmarks/gpu_step.py", *arguments])
        try:
            status = gpu_step.main()
        except SystemExit as stop:  # how the command line refuses arguments
            status = int(stop.code or 0)
    return status, said.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("step")
    files = ["--json", str(folder / "step.json"), "--figure", str(folder / "step.png")]
    status, said = run("--small", "--models", ",".join(NAMES), "--frames", "81,321", *files)
    assert status == 0, said
    return said, folder


def test_cases(finished: tuple[str, Path]) -> None:
    results = json.loads((finished[1] / "step.json").read_text())
    order = [(case["model"], case["frames"]) for case in results["rows"]]
    assert order == [("wan-1.3b", 81), ("wan-1.3b", 321), ("hunyuan-video-1.5", 321), ("hunyuan-video-1.5", 81)]
    assert results["left_out"] == [] and set(results["machine"]) >= {"date", "command", "commit", "versions", "driver"}
    for case in results["rows"]:
        sparse = case["frames"] == 321
        assert (case["latent_frames"], case["layers"], case["repeats"]) == (81 if sparse else 21, 2, 2)
        assert (case["density"] < 1, case["dense_pattern"]) == (sparse, not sparse)
        assert case["dense"] == "SDPA flash" and {*case["dense_failed"]} == {"FlashAttention-3", "SDPA cuDNN"}
        assert case["kernel"] == ("sdpa" if sparse else "dense SDPA flash")
        assert ("4 of 4 steps sparse" in case["report"]) == sparse  # by its own word: two of warm-up, two runs
        assert case["ratio"] == pytest.approx(case["seconds"]["dense"] / case["seconds"]["lvsa"])
        assert all(case["attention_share"][side] > 0 and len(case["times"][side]) == 2 for side in case["times"])
        assert not case["compiled"] and case["met"] is None  # no FlashAttention-3 here
    assert [case["target"] for case in results["rows"]] == ["within 1%", "at least 2.4", "", "within 1%"]


def test_what_is_said(finished: tuple[str, Path]) -> None:
    said, folder = finished
    assert "wan-1.3b, 321 frames: T=81, 324 tokens, density 0.259, 2 blocks, 2 runs" in said
    assert "dense takes SDPA flash, LVSA sdpa (" in said and "| at least 2.4 | not judged |" in said
    assert (folder / "step.png").read_bytes().startswith(b"\x89PNG")


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


def test_budget_and_order() -> None:
    """On an H200 (790 TFLOP/s) the first cases fit into the default budget, also if all take an eighth longer.

    On a card of a tenth of its speed the first two do.
    """
    cases = ordered_cases(["wan-1.3b", "wan-14b", "hunyuan-video-1.5"], FRAMES)
    assert cases[: len(FIRST)] == FIRST and len(cases) == 12

    def needed(rate: float, first: int) -> float:
        steps = [expected_step(MODELS[name], frames, rate) for name, frames in FIRST[:first]]
        return sum(1.5 * START_SECONDS + max(gpu_step.CASE_SECONDS, fewest(one) * one) for one in steps)

    assert needed(790e12, len(FIRST)) < 420 / 1.125 and needed(79e12, 2) < 420


def test_the_first_case_runs_whatever_its_estimate() -> None:
    """Of a budget that no estimate fits, the first case runs and the others are left out; of none, none."""
    status, said = run("--small", "--budget", "1", "--models", "wan-1.3b", "--frames", "81,85")
    assert status == 0 and "wan-1.3b, 81 frames: T=21" in said and said.count("Left out: wan-1.3b, 85 frames") == 1
    status, said = run("--small", "--budget", "0", "--models", "wan-14b")
    assert status == 0 and said.count("Left out: wan-14b") == 4 and "of 0 s left" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to run")
def test_no_gpu() -> None:
    assert run() == (2, "error: PyTorch finds no CUDA device; try it out with --small\n")


def test_an_unknown_name() -> None:
    status, said = run("--small", "--models", "wan-99b")
    assert status == 2 and "wan-99b: not known; choose of wan-1.3b" in said

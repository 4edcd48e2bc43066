"""The GPU's benchmark runs on the CPU with shrunk shapes and writes what it prints; no time of it is judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
TINY = ["--device", "cpu", "--tiny"]

#: Registers a kernel that joins windows with wrong weights and one that raises, then runs the script.
FAULTY = """
import runpy, sys
from lvsa_core.kernels import KERNELS
from lvsa_core.kernels.sdpa import SdpaKernel

class Wrong(SdpaKernel):
    name = "wrong"
    def attention(self, q, k, v, scale):
        out, lse = super().attention(q, k, v, scale)
        return out, 0 * lse

class Raising(SdpaKernel):
    name = "raising"
    def attention(self, q, k, v, scale):
        raise OSError("a library is missing")

KERNELS.update(wrong=Wrong(), raising=Raising())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script, or ``code`` with the script as its first argument, without any GPU."""
    command = [str(SCRIPT)] if code is None else ["-c", "import sys; del sys.argv[0]" + code, str(SCRIPT)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command, *arguments], capture_output=True, text=True, env=environment, timeout=240
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One run of two models at three lengths, and the folder of its files."""
    folder = tmp_path_factory.mktemp("gpu")
    files = ["--json", str(folder / "gpu.json"), "--figure", str(folder / "gpu.png")]
    return run(*TINY, "--models", "cosmos3,wan-14b", "--frames", "21,41,121", *files), folder


@pytest.fixture
def results(finished: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    process, folder = finished
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads((folder / "gpu.json").read_text())


def test_checks(results: dict[str, Any]) -> None:
    assert results["usable"] == ["sdpa", "sdpa-concatenated"] and results["auto"].startswith("sdpa (passed over flash")
    # Two models, and the layout of the self-test.
    assert [(row["kernel"], row["result"]) for row in results["checks"]] == [
        (name, "right") for _ in range(3) for name in results["usable"]
    ]
    assert "FlashAttention3" in results["unavailable"] and "CUDA" in results["dense_unavailable"]["FlashAttention-3"]
    assert set(results["machine"]) >= {"date", "command", "versions", "measured", "rates", "seed"}


def test_the_important_cases_come_first(results: dict[str, Any]) -> None:
    order = [(case["model"], case["frames"]) for case in results["cases"]]
    assert order[:3] == [("wan-14b", 41), ("wan-14b", 121), ("cosmos3", 121)]  # then the dense patterns
    assert all(case["dense_pattern"] == (place >= 3) for place, case in enumerate(results["cases"]))
    assert len(order) == 6 and results["left_out"] == []


def test_numbers_of_a_case(results: dict[str, Any]) -> None:
    case = next(case for case in results["cases"] if (case["model"], case["frames"]) == ("cosmos3", 121))
    tokens, text = 121 * 4, 77
    assert (case["tokens"], case["heads"], case["repeats"]) == (tokens, [8, 2], 2)
    assert case["reference"] in case["dense"] and case["chosen"] == "sdpa" and case["failed"] == {}
    video = 48 / 121  # frames seen: the training length, of all
    assert case["density"] == pytest.approx((video * tokens + text) / (tokens + text), rel=0.01)
    assert (
        case["floor"] >= 4 * case["density"] * tokens * (tokens + text) * 8 * 16 / results["machine"]["rates"]["flop"]
    )
    assert case["bound_bytes"] == 2 * 16 * (8 * tokens + 2 * 2 * (tokens + text)) + 2 * 4 * 8 * tokens
    for row in case["kernels"].values():
        assert row["right"] and row["difference"] < 0.06
        assert row["ratio"] == pytest.approx(row["seconds"] / case["dense"][case["reference"]])
        assert row["overhead"] == pytest.approx(row["ratio"] / case["density"])
        assert row["roofline"] == pytest.approx(row["seconds"] / case["floor"])
    assert set(case["parts"]) == {"copies", "prefix", "windows", "merge"} and min(case["parts"].values()) > 0
    assert case["planning"] > 0


def test_a_dense_pattern_is_timed_once(results: dict[str, Any]) -> None:
    for case in results["cases"]:
        assert len(case["kernels"]) == (1 if case["dense_pattern"] else 2)
        assert (case["density"] == 1, case["parts"] is None) == (case["dense_pattern"],) * 2


def test_what_is_said(finished: tuple[subprocess.CompletedProcess[str], Path], results: dict[str, Any]) -> None:
    process, folder = finished
    assert "wan-14b, T=121, 484 tokens, 2 heads, density 0.174" in process.stdout
    assert "is not judged" in process.stdout and results["verdict"]["within"] is None  # no FlashAttention-3 here
    assert (folder / "gpu.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_kernel_is_found(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    process = run(*TINY, "--models", "wan-1.3b", "--frames", "41", "--json", str(file), code=FAULTY)
    assert process.returncode == 1, process.stderr
    results = json.loads(file.read_text())
    found = {name: {row["result"] for row in results["checks"] if row["kernel"] == name} for name in ("wrong", "sdpa")}
    assert found == {"wrong": {"wrong"}, "sdpa": {"right"}}
    assert "raising: raised OSError: a library is missing" in process.stdout
    assert [*results["cases"][0]["kernels"]] == ["sdpa", "sdpa-concatenated"]  # a faulty kernel is not timed


@pytest.mark.parametrize(
    ("hopper", "reference", "overhead", "within"),
    [
        (True, "FlashAttention-3", 1.09, True),
        (True, "FlashAttention-3", 1.11, False),
        (False, "FlashAttention-3", 1.0, None),
        (True, "SDPA cuDNN", 1.0, None),
    ],
)
def test_verdict(
    monkeypatch: pytest.MonkeyPatch, hopper: bool, reference: str, overhead: float, within: bool | None
) -> None:
    """Only sparse cases from T=41 on beside FlashAttention-3 on Hopper are judged."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from gpu_report import verdict

    case = {"model": "wan-14b", "chosen": "a", "reference": reference, "dense_pattern": False}
    cases = [
        {**case, "frames": 41, "kernels": {"a": {"overhead": overhead}, "b": {"overhead": 5}}},
        {**case, "frames": 81, "kernels": {"a": {"overhead": 1.0}}},
        {**case, "frames": 40, "kernels": {"a": {"overhead": 7.0}}},
        {**case, "frames": 41, "kernels": {"a": {"overhead": 8.0}}, "dense_pattern": True},
    ]
    found = verdict({"cases": cases}, hopper)
    assert found["within"] is within and found["largest"] == (None if within is None else overhead)
    words = {True: "within the target, 1.10 x density", False: "1.110 (wan-14b T=41 a), ABOVE", None: "not judged"}
    assert words[within] in found["sentence"]


def test_no_budget(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    process = run(*TINY, "--models", "wan-1.3b", "--budget", "0", "--json", str(file))
    assert process.returncode == 0, process.stderr
    results = json.loads(file.read_text())
    assert results["cases"] == [] and len(results["left_out"]) == 4
    assert "Left out: wan-1.3b T=81: over the budget" in process.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: PyTorch finds no CUDA device; try it out with --device cpu --tiny"),
        (["--device", "cpu"], "error: a processor is too slow for these shapes: add --tiny"),
        ([*TINY, "--kernels", "flash"], "error: nothing to time: no kernel runs here"),
    ],
)
def test_nothing_to_run(arguments: list[str], sentence: str) -> None:
    process = run(*arguments)
    assert (process.returncode, process.stderr.strip()) == (2, sentence)


def test_an_unknown_name() -> None:
    process = run(*TINY, "--models", "wan-99b")
    assert process.returncode == 2 and "wan-99b: not known; choose of wan-14b, wan-1.3b" in process.stderr

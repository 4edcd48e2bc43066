"""The GPU's benchmark runs on the CPU with shrunk shapes and writes what it prints; no time of it is judged here."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch

from lvsa_core.kernels import KERNELS
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_vllm_omni.measure import machine

TINY = ["--device", "cpu", "--tiny"]


def run(*arguments: str) -> tuple[int, str, str]:
    """The exit status of the command, what it says, and its errors, without any GPU."""
    said, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["benchmarks/gpu.py", *arguments])
        patch.setattr(torch.cuda, "is_available", lambda: False)
        try:
            status = gpu.main()
        except SystemExit as stop:  # how the command line refuses arguments
            status = int(stop.code or 0)
    return status, said.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """One run of two models at three lengths, and the folder of its files."""
    folder = tmp_path_factory.mktemp("gpu")
    files = ["--json", str(folder / "gpu.json"), "--figure", str(folder / "gpu.png")]
    status, said, errors = run(*TINY, "--models", "cosmos3,wan-14b", "--frames", "21,41,121", *files)
    assert status == 0, said + errors
    return said, folder


@pytest.fixture
def results(finished: tuple[str, Path]) -> dict[str, Any]:
    return json.loads((finished[1] / "gpu.json").read_text())


def test_checks(results: dict[str, Any]) -> None:
    assert results["usable"] == ["sdpa", "sdpa-concatenated"] and results["auto"].startswith("sdpa (passed over flash")
    # Two models, and the layout of the self-test.
    assert [(row["kernel"], row["result"]) for row in results["checks"]] == [
        (name, "right") for _ in range(3) for name in results["usable"]
    ]
    assert "FlashAttention3" in results["unavailable"] and "CUDA" in results["dense_unavailable"]["FlashAttention-3"]
    assert set(results["machine"]) >= {"date", "command", "commit", "versions", "device", "driver", "rates", "seed"}


def test_the_important_cases_come_first(results: dict[str, Any]) -> None:
    order = [(case["model"], case["frames"]) for case in results["rows"]]
    assert order[:3] == [("wan-14b", 41), ("wan-14b", 121), ("cosmos3", 121)]  # then the dense patterns
    assert all(case["dense_pattern"] == (place >= 3) for place, case in enumerate(results["rows"]))
    assert len(order) == 6 and results["left_out"] == []


def test_numbers_of_a_case(results: dict[str, Any]) -> None:
    case = next(case for case in results["rows"] if (case["model"], case["frames"]) == ("cosmos3", 121))
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
    assert 0 < case["planning"]["known"] < case["planning"]["new"]


def test_a_dense_pattern_is_timed_once(results: dict[str, Any]) -> None:
    for case in results["rows"]:
        assert len(case["kernels"]) == (1 if case["dense_pattern"] else 2)
        assert (case["density"] == 1, case["parts"] is None) == (case["dense_pattern"],) * 2


def test_what_is_said(finished: tuple[str, Path], results: dict[str, Any]) -> None:
    said, folder = finished
    assert "wan-14b, T=121, 484 tokens, 2 heads, density 0.174" in said
    assert "is not judged" in said and results["verdict"]["within"] is None  # no FlashAttention-3 here
    assert (folder / "gpu.png").read_bytes().startswith(b"\x89PNG")


class Wrong(SdpaKernel):
    """Joins windows with wrong weights."""

    name = "wrong"

    def attention(self, *arguments: Any) -> Any:
        out, lse = super().attention(*arguments)
        return out, 0 * lse


class Raising(SdpaKernel):
    name = "raising"

    def attention(self, *arguments: Any) -> Any:
        raise OSError("a library is missing")


def test_a_wrong_kernel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    monkeypatch.setitem(KERNELS, "wrong", Wrong())
    monkeypatch.setitem(KERNELS, "raising", Raising())
    status, said, _ = run(*TINY, "--models", "wan-1.3b", "--frames", "41", "--json", str(file))
    assert status == 1
    results = json.loads(file.read_text())
    found = {name: {row["result"] for row in results["checks"] if row["kernel"] == name} for name in ("wrong", "sdpa")}
    assert found == {"wrong": {"wrong"}, "sdpa": {"right"}}
    assert "raising: raised OSError: a library is missing" in said
    assert [*results["rows"][0]["kernels"]] == ["sdpa", "sdpa-concatenated"]  # a faulty kernel is not timed


@pytest.mark.parametrize(
    ("hopper", "reference", "overhead", "within"),
    [
        (True, "FlashAttention-3", 1.09, True),
        (True, "FlashAttention-3", 1.11, False),
        (False, "FlashAttention-3", 1.0, None),
        (True, "SDPA cuDNN", 1.0, None),
    ],
)
def test_verdict(hopper: bool, reference: str, overhead: float, within: bool | None) -> None:
    """Only sparse cases from T=41 on beside FlashAttention-3 on Hopper are judged."""
    case = {"model": "wan-14b", "chosen": "a", "reference": reference, "dense_pattern": False}
    cases = [
        {**case, "frames": 41, "kernels": {"a": {"overhead": overhead}, "b": {"overhead": 5}}},
        {**case, "frames": 81, "kernels": {"a": {"overhead": 1.0}}},
        {**case, "frames": 40, "kernels": {"a": {"overhead": 7.0}}},
        {**case, "frames": 41, "kernels": {"a": {"overhead": 8.0}}, "dense_pattern": True},
    ]
    found = gpu.verdict(cases, hopper)
    assert found["within"] is within and found["largest"] == (None if within is None else overhead)
    words = {True: "within the target, 1.10 x density", False: "1.110 (wan-14b T=41 a), ABOVE", None: "not judged"}
    assert words[within] in found["sentence"]


@pytest.mark.parametrize(("budget", "ran"), [("1", 1), ("0", 0)])
def test_budget(tmp_path: Path, budget: str, ran: int) -> None:
    """The first case runs also where too little is left, none where there is nothing."""
    file = tmp_path / "results.json"
    status, said, _ = run(*TINY, "--models", "wan-1.3b", "--budget", budget, "--json", str(file))
    results = json.loads(file.read_text())
    assert status == 0 and [case["frames"] for case in results["rows"]] == [81, 41][:ran]
    assert len(results["left_out"]) == 4 - ran and "Left out: wan-1.3b T=" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: PyTorch finds no CUDA device; try it out with --device cpu --tiny"),
        (["--device", "cpu"], "error: a processor is too slow for these shapes: add --tiny"),
        ([*TINY, "--models", "wan-1.3b", "--kernels", "flash"], "error: nothing to time: no kernel runs here"),
    ],
)
def test_nothing_to_run(arguments: list[str], sentence: str) -> None:
    status, _, errors = run(*arguments)
    assert (status, errors.strip()) == (2, sentence)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--models", "wan-99b", "wan-99b: not known; choose of wan-14b, wan-1.3b"),
        ("--frames", "many", "takes numbers separated by commas, got many"),
    ],
)
def test_bad_arguments(option: str, value: str, said: str) -> None:
    status, _, errors = run(*TINY, option, value)
    assert status == 2 and said in errors


def test_it_needs_neither_pydantic_nor_the_engine() -> None:
    """A GPU machine has PyTorch and this repository: what the benchmark imports must not ask for more."""
    import subprocess

    code = (
        "import sys\n"
        "for name in ('pydantic', 'pydantic_settings', 'vllm', 'vllm_omni', 'diffusers'): sys.modules[name] = None\n"
        "import gpu, attention"
    )
    paths = {"PYTHONPATH": f"{machine.ROOT}:{machine.ROOT / 'benchmarks'}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

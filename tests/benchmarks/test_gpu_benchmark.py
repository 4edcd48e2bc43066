"""The GPU's benchmark runs on the CPU with shrunk shapes and writes what it prints; no time of it is judged here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu
import pytest
from gpu import SECONDS, WAN, WAN_SLOWER
from report import Results

from lvsa_core.kernels import KERNELS
from lvsa_vllm_omni.measure.machine import ROOT

TINY = ["--device", "cpu", "--tiny"]
STAND_INS = ROOT / "tests" / "support" / "gpu_stand_ins.py"


def run(*arguments: str, script: Path = ROOT / "benchmarks" / "gpu.py", path: str = "") -> tuple[int, str, str]:
    """The exit status of the command, what it says, and its errors, without any GPU and in a process of its own."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """One run of two models at two lengths: what it says, and its results."""
    file = tmp_path_factory.mktemp("gpu") / "gpu.json"
    sizes = ["--models", "cosmos3,wan-14b", "--frames", "21,121", "--kernels", "sdpa,FlashAttention3"]
    status, said, errors = run(*TINY, *sizes, "--json", str(file))
    assert status == 0, said + errors
    return said, json.loads(file.read_text())


def test_rows(finished: tuple[str, dict[str, Any]]) -> None:
    said, results = finished
    rows = {row["job"]: row for row in results["rows"]}
    assert results["auto"] == "sdpa" and rows["sdpa"]["layouts"] == 4  # three of the models, and the self-test's
    assert rows["FlashAttention3"] == {
        "job": "FlashAttention3", "side": "FlashAttention3", "model": "", "latent_frames": 0, "result": "unavailable",
        "reason": "it needs a CUDA device, not cpu",
    }  # fmt: skip
    assert not any(job.startswith("FlashAttention3,") for job in rows)
    assert set(results["machine"]) >= {"date", "command", "commit", "versions", "device", "driver", "rates", "tiny"}
    assert results["machine"]["command"].startswith("python gpu.py --device cpu --tiny --models cosmos3,wan-14b")
    for model in ("cosmos3", "wan-14b"):
        for frames in (21, 121):
            for side in ("dense SDPA flash", "sdpa", "sdpa-concatenated"):
                assert rows[f"{side}, {model} T={frames}"]["result"] == "right"
    assert "| sdpa | right |" in said and "| dense SDPA flash | right |" in said
    assert "is not judged" in said and results["verdict"]["within"] is None  # no FlashAttention-3 here


def test_numbers_of_a_case(finished: tuple[str, dict[str, Any]]) -> None:
    rows = {row["job"]: row for row in finished[1]["rows"]}
    case, tokens, text = rows["sdpa, cosmos3 T=121"], 121 * 4, 77
    assert (case["tokens"], case["heads"], case["repeats"]) == (tokens, [8, 2], 2)
    assert [*case["dense"]] == [case["reference"]] == ["SDPA flash"] and case["failed"] == {}
    video = 48 / 121  # frames seen: the training length, of all
    density = (video * tokens + text) / (tokens + text)
    assert case["density"] == pytest.approx(density, rel=0.05) and case["flop"] > 0
    kernel = case["kernels"]["sdpa"]
    assert kernel["ratio"] == pytest.approx(kernel["seconds"] / case["dense"]["SDPA flash"])
    assert kernel["overhead"] == pytest.approx(kernel["ratio"] / case["density"])
    assert kernel["roofline"] == pytest.approx(kernel["seconds"] / case["floor"])
    assert min(case["parts"].values()) > 0 and case["planning"]["new"] > 0
    assert rows["sdpa, wan-14b T=21"]["dense_pattern"] and rows["sdpa, wan-14b T=21"]["parts"] is None


def test_every_fault_costs_one_line_and_another_call_goes_on(tmp_path: Path) -> None:
    """A kernel ends its process in the check, another one in a time; one is wrong, one raises; the rest has numbers."""
    file, path = tmp_path / "gpu.json", f"{ROOT}:{ROOT / 'benchmarks'}"
    command = [*TINY, "--models", "wan-1.3b", "--frames", "41", "--json", str(file)]
    status, said, _ = run(*command, script=STAND_INS, path=path)
    assert status == 1
    for line in [
        "| aborting | crashed: the process ended: SIGABRT |", r"| wrong | wrong: off by \S+, allowed is 0.06, on .*|",
        "| raising | failed: OSError: a library is missing |", "| sdpa | right |", "| late | right |",
        r"| sdpa | [\d.]+ \([\d.]+\) |", "| late | crashed |",
    ]:  # fmt: skip
        assert re.search("^" + line.replace("|", r"\|") + "$", said, re.MULTILINE), f"{line} is not in {said}"
    assert "late, wan-1.3b T=41: crashed: the process ended: SIGABRT" in said
    before = json.loads(file.read_text())

    cut = [row for row in before["rows"] if row["side"] != "sdpa"]
    file.write_text(json.dumps({**before, "rows": cut}))
    assert run(*command, script=STAND_INS, path=path)[0] == 1
    after = json.loads(file.read_text())["rows"]  # what crashed is not tried again
    assert after[: len(cut)] == cut and [row["job"] for row in after[len(cut) :]] == ["sdpa", "sdpa, wan-1.3b T=41"]


def test_results_of_another_run_are_not_mixed(tmp_path: Path) -> None:
    machine = {"device": "a card", "versions": "torch 2", "commit": "1234567", "command": "python gpu.py --all"}
    first = Results(tmp_path / "gpu.json", machine, resume=True)
    first.rows.append({"job": "a"})
    first.save()
    assert Results(tmp_path / "gpu.json", machine, resume=True).rows == [{"job": "a"}]
    for name in machine:
        with pytest.raises(ValueError, match=f"holds results of another {name}, "):
            Results(tmp_path / "gpu.json", {**machine, name: "other"}, resume=True)


def test_what_has_no_time_is_named(tmp_path: Path) -> None:
    status, said, _ = run(*TINY, "--budget", "0.001", "--json", str(tmp_path / "gpu.json"))
    assert status == 2 and "Not run for lack of time, call again: " in said and "dense FlashAttention-3" in said


def test_parts_of_tests(tmp_path: Path) -> None:
    """Without a GPU they are skipped, each by name; FlashInfer's are in its own part."""
    file = tmp_path / "gpu.json"
    status, said, errors = run(*TINY, "--parts", "tests", "--json", str(file))
    tested = json.loads(file.read_text())["tests"]
    assert status == 2 and len(tested) > 300, said + errors  # nothing has run
    assert {*tested.values()} <= {"skipped: Skipped: no CUDA device", "skipped: Skipped: no CUDA device, or no NCCL"}
    assert not any("flashinfer" in name.lower() for name in tested) and f"tests/gpu: {len(tested)} skipped" in said


def test_the_first_two_parts_end_within_nine_minutes() -> None:
    """By an H100's times: every side runs as often as it would, at its own pace, and every process takes 9 s more."""
    assert SECONDS["layers"] + SECONDS["steps"] < 540
    results = json.loads((ROOT / "benchmarks" / "results" / "gpu-h100.json").read_text())
    cases = {(case["model"], case["frames"]): case for case in results["cases"]}

    def spent(sides: list[float]) -> float:
        once = sum(sides)
        return once * (4 + max(3, min(15, int(3 / once)))) + 0.5

    total = 0.0
    for dense in ("FlashAttention-3", "SDPA cuDNN", "SDPA flash"):
        total += 9 + sum(spent([cases[case]["dense"][dense]]) for case in WAN if case in cases)
    measured = {"FlashAttention3": WAN, "cuDNN": WAN_SLOWER, "FlashAttention2": WAN_SLOWER}
    like = ["FlashAttention3", "FlashAttention3", "cuDNN", "FlashAttention2", "FlashAttention2", "FlashAttention2"]
    for place, name in enumerate(like):  # the gathered ones and PyTorch's take about what these do
        for case in measured[name] if not place else WAN_SLOWER:
            if case in cases:
                row = cases[case]
                total += spent([row["kernels"][name]["seconds"], row["dense"]["FlashAttention-3"]])
        total += 9
    assert total < SECONDS["layers"]


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
    """Only sparse cases of the first kernel from T=41 on beside FlashAttention-3 on Hopper are judged."""

    def row(side: str, frames: int, overhead: float, dense: bool = False) -> dict[str, Any]:
        more = {"reference": reference, "dense_pattern": dense, "kernels": {side: {"overhead": overhead}}}
        return {"job": f"{side} {frames}", "side": side, "latent_frames": frames, **more}

    rows = [row("a", 41, overhead), row("b", 41, 5), row("a", 81, 1.0), row("a", 40, 7), row("a", 41, 8, True)]
    found = gpu.verdict(rows, "a", hopper)
    assert found["within"] is within and found["largest"] == (None if within is None else overhead)
    words = {True: "within the target, 1.10 x density", False: "1.110 (a 41), ABOVE", None: "not judged"}
    assert words[within] in found["sentence"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: PyTorch finds no CUDA device; try it out with --device cpu --tiny"),
        (["--device", "cpu"], "error: a processor is too slow for these shapes: add --tiny"),
        ([*TINY, "--models", "wan-99b"], "wan-99b: not known; choose of wan-14b, wan-1.3b"),
        ([*TINY, "--frames", "many"], "takes numbers separated by commas, got many"),
    ],
)
def test_nothing_to_run(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    try:
        status = gpu.main()
    except SystemExit as stop:  # how the command line refuses arguments
        status = int(stop.code or 0)
    assert status == 2 and sentence in capsys.readouterr().err


def test_what_to_carry_is_pinned() -> None:
    lines = (ROOT / "benchmarks" / "carry.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith(("#", "--"))]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+ +# \d+\.\d MiB.*", line) for line in packages), packages
    assert any(line.startswith("fa3-fwd==") for line in packages) and {*KERNELS} >= {"FlashAttention3", "FlashInfer"}


def test_it_needs_neither_pydantic_nor_the_engine() -> None:
    """A GPU machine has PyTorch and this repository: what the benchmark imports must not ask for more."""
    code = (
        "import sys\n"
        "for name in ('pydantic', 'pydantic_settings', 'vllm', 'vllm_omni', 'diffusers'): sys.modules[name] = None\n"
        "import gpu, gpu_step, attention, performance"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr

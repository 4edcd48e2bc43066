"""The GPU's benchmark runs on the CPU with shrunk shapes and writes what it prints; no time of it is judged here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gpu
import pytest
from gpu import SECONDS, WAN, WAN_SLOWER
from report import Results
from sides import Setting

from lvsa_core.kernels import KERNELS
from lvsa_vllm_omni.measure.machine import ROOT

TINY = ["--device", "cpu", "--tiny"]
STAND_INS = ROOT / "tests" / "support" / "gpu_stand_ins.py"


class Finished(NamedTuple):
    """What a command said, and its results; the exit status is 1."""

    said: str
    results: dict[str, Any]


def run(file: Path) -> Finished:
    """The command with its stand-ins for kernels: one model at two lengths, and the tests."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    sizes = ["--parts", "layers,tests", "--models", "cosmos3", "--frames", "48,121", "--json", str(file)]
    command = [sys.executable, str(STAND_INS), *TINY, *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    return Finished(done.stdout, json.loads(file.read_text()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run(tmp_path_factory.mktemp("gpu") / "gpu.json")


@pytest.fixture
def rows(finished: Finished) -> dict[str, dict[str, Any]]:
    return {row["job"]: row for row in finished.results["rows"]}


def test_rows(finished: Finished, rows: dict[str, dict[str, Any]]) -> None:
    assert finished.results["auto"] == "sdpa" and rows["sdpa"]["layouts"] == 4  # of three models, and the self-test's
    assert rows["FlashAttention3"] == {
        "job": "FlashAttention3", "side": "FlashAttention3", "model": "", "latent_frames": 0, "result": "unavailable",
        "reason": "it needs a CUDA device, not cpu",
    }  # fmt: skip
    assert "FlashInfer" not in rows and not any(job.startswith("FlashAttention3,") for job in rows)
    assert {*finished.results["machine"]} >= {"date", "command", "commit", "versions", "device", "driver", "rates"}
    assert finished.results["machine"]["command"].startswith("python gpu_stand_ins.py --device cpu --tiny --parts")
    assert all(rows[f"{side}, cosmos3 T=121"]["result"] == "right" for side in ("dense SDPA flash", "sdpa"))
    assert "is not judged" in finished.said and not finished.results["verdict"]["within"]  # no FlashAttention-3 here


def test_numbers_of_a_case(rows: dict[str, dict[str, Any]]) -> None:
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
    assert rows["sdpa, cosmos3 T=48"]["dense_pattern"] and rows["sdpa, cosmos3 T=48"]["parts"] is None


@pytest.mark.parametrize(
    "line",
    [
        "| aborting | crashed: its process ended with SIGABRT |",
        r"| wrong | wrong: off by \S+, allowed is 0.06, on .*|",
        "| raising | failed: OSError: a library is missing |",
        "| sdpa | right |",
        r"| sdpa | [\d.]+ \([\d.]+\) | [\d.]+ \([\d.]+\) |",
        "| late | right |",
        "| late | crashed | crashed |",
        "late, cosmos3 T=121: crashed: its process ended with SIGABRT",
    ],
)
def test_every_fault_costs_one_line(line: str, finished: Finished) -> None:
    """A kernel ends its process in the check, another one in each time; one is wrong, one raises; sdpa has numbers."""
    assert re.search("^" + line.replace("|", r"\|") + "$", finished.said, re.MULTILINE), finished.said


def test_parts_of_tests(finished: Finished) -> None:
    """Each by its name, without those of FlashInfer, which have a part of their own, and of kernels that crash."""
    tested, skipped = finished.results["tests"], "skipped: Skipped: no CUDA device"
    assert len(tested) > 100 and {*tested.values()} <= {skipped, f"{skipped}, or no NCCL"}
    last = {name.rpartition("[")[2] for name in tested}
    named = {x for x in (*KERNELS, "wrong", "late") if any(f"-{end}".endswith(f"-{x}]") for end in last)}
    assert named == {"sdpa", "wrong", "FlashAttention3"} and f"tests/gpu: {len(tested)} skipped" in finished.said


def test_another_call_goes_on(finished: Finished, tmp_path: Path) -> None:
    """With what has no result; what has crashed is not tried again."""
    before = finished.results["rows"]
    kept = [row for row in before if row["side"] != "sdpa"]
    (tmp_path / "gpu.json").write_text(json.dumps({**finished.results, "rows": kept}))
    after = run(tmp_path / "gpu.json").results
    assert after["rows"][: len(kept)] == kept and after["tests"] == finished.results["tests"]
    assert [row["job"] for row in after["rows"][len(kept) :]] == ["sdpa", "sdpa, cosmos3 T=48", "sdpa, cosmos3 T=121"]


def test_what_has_no_time_is_missing(tmp_path: Path) -> None:
    arguments = gpu.parse_arguments([*TINY, "--budget", "1e-9"])
    run = gpu.Session(arguments, Setting("cpu", True), Results(tmp_path / "gpu.json", {"rates": {}}))
    run.part("layers")
    assert run.missing[:2] == ["dense FlashAttention-3", "dense FlashAttention-3, wan-14b T=81"]
    assert run.status() == 2
    run.results.rows.append({"result": "right"})
    assert run.status() == 3


def test_results_of_another_run_are_not_mixed(tmp_path: Path) -> None:
    machine = {"device": "a card", "versions": "torch 2", "commit": "1234567", "command": "python gpu.py --all"}
    first = Results(tmp_path / "gpu.json", machine, resume=True)
    first.rows.append({"job": "a"})
    first.save()
    assert Results(tmp_path / "gpu.json", machine, resume=True).rows == [{"job": "a"}]
    for name in machine:
        with pytest.raises(ValueError, match=f"holds results of another {name}, "):
            Results(tmp_path / "gpu.json", {**machine, name: "other"}, resume=True)


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
        "for name in ('pydantic', 'pydantic_core', 'vllm', 'vllm_omni', 'diffusers'): sys.modules[name] = None\n"
        "import gpu, gpu_step, attention, performance"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr

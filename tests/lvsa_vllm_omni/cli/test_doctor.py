"""`lvsa doctor`, and the table of parallelism that the log and the docs have too."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lvsa_core import Placement
from lvsa_core.kernels.registry import KERNELS
from lvsa_vllm_omni import parallelism
from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.hooks import SPECS
from tests.support.crashing import Aborting

ROOT = Path(__file__).parents[3]
#: What a hook may say.
WRONG = "a class is missing"


def test_the_docs_have_the_table_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--matrix", "--markdown"]) == 0
    printed = capsys.readouterr().out
    text = (ROOT / "docs" / "parallelism.md").read_text()
    inside = text.partition("<!-- matrix -->\n")[2].partition("<!-- /matrix -->")[0]
    assert inside == printed, "paste `lvsa doctor --matrix --markdown` between the marks"


def test_matrix_for_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--matrix"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["placement", *SPECS, "options"]
    for option, line in zip(parallelism.PLACEMENTS, lines, strict=False):
        assert line.startswith(option.title) and line.endswith(option.options)
        assert line.count("not in the engine") == len(option.engine_limits)
    assert (
        "AllGather-KV, cosmos3: its attention layers of the text are causal, which the engine's AllGather-KV refuses"
        in lines
    )


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (Placement(), ""),
        (Placement(ring=2), "Ring 2"),
        (Placement(tp=2, cfg=2, ulysses=4), "tensor parallel 2 x CFG parallel 2 x Ulysses 4"),
    ],
)
def test_a_placement_in_words(placement: Placement, words: str) -> None:
    assert parallelism.titles(placement) == words


@pytest.mark.slow
def test_this_machine() -> None:
    """In a process of its own: the command makes vLLM quiet before it imports it."""
    environment = {**os.environ, "LVSA_WAN_HOOK": "1", "LVSA_CONFIG": '{"window_size": 8}', "SECRET": "hidden"}
    program = [sys.executable, "-m", "lvsa_vllm_omni.cli", "doctor"]
    run = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.splitlines()
    assert lines[0].startswith("lvsa-vllm-omni ") and "vllm-omni " in lines[0]
    assert lines[1:5] == [
        "setting LVSA_WAN_HOOK: true (environment variable)",
        "setting LVSA_WINDOW_SIZE: 8 (LVSA_CONFIG)",
        "setting LVSA_CPU: true (environment variable)",
        "switched on: wan",
    ]
    assert re.fullmatch(r"device cpu: .+, \d+\.\d GB memory, \d+\.\d GB free", lines[8])
    assert lines[9:] == [
        "kernels on cpu, bfloat16, head size 128, the fastest first, each tried in a process of its own:",
        "  sdpa: right",
        "  sdpa-concatenated: right",
        lines[12],
        "  sdpa-ascend: not available (it is for Ascend, the device is cpu)",
        "kernel that LVSA takes: sdpa",
        "a server started now would compute long requests sparsely with sdpa, wan from 85 frames on (toy-wan, wan, "
        "wan2.1-1.3b, wan2.1-14b, wan2.2-a14b) and from 125 frames on (wan2.2-ti2v-5b); all others densely",
    ]
    assert lines[12].startswith("  FlashAttention3, ") and lines[12].endswith("(it needs a CUDA device, not cpu)")
    assert "hidden" not in run.stdout


@pytest.mark.slow
def test_a_kernel_that_some_placements_cannot_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a device for which PyTorch gives no log-sum-exp."""
    monkeypatch.setenv("LVSA_SKIP_KERNELS", "sdpa-ascend, sdpa")
    monkeypatch.setattr(KERNELS["sdpa-concatenated"], "family", "concatenated", raising=False)
    monkeypatch.setattr("lvsa_vllm_omni.cli.doctor_report.hook_problem", lambda family: "")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "refused" in line] == [
        "hunyuan under Ring: refused, under Ring the text's queries need the log-sum-exp, which the kernel does not "
        "give: use Ulysses, or another kernel"
    ]
    assert not list(parallelism.refusals(lse=True))


@pytest.mark.slow
def test_a_kernel_that_crashes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a line of the table, and the sentence says what to set; set, it is not tried."""
    monkeypatch.setattr("lvsa_vllm_omni.cli.doctor_report.hook_problem", lambda family: "")
    others = dict(KERNELS)
    KERNELS.clear()
    KERNELS.update({"aborting": Aborting(), "sdpa": others["sdpa"]})
    try:
        assert main(["doctor"]) == 1
        printed = capsys.readouterr()
        line, right = printed.out.splitlines()[-4:-2]
        assert line == "  aborting: crashed (its process ended with SIGABRT)"
        assert right == "  sdpa: right" and "kernel that LVSA takes: sdpa" in printed.out
        assert printed.err.endswith("the kernel aborting would be tried and crash: set LVSA_SKIP_KERNELS=aborting\n")
        monkeypatch.setenv("LVSA_SKIP_KERNELS", "aborting")
        assert main(["doctor"]) == 0
        assert "  aborting: left out by LVSA_BACKEND or LVSA_SKIP_KERNELS" in capsys.readouterr().out
    finally:
        KERNELS.clear()
        KERNELS.update(others)


@pytest.mark.slow
def test_what_is_switched_on_and_does_not_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVSA_ENABLE", "1")
    wrong = "lvsa_vllm_omni.cli.doctor_report.hook_problem"
    monkeypatch.setattr(wrong, lambda family: WRONG * (family == "wan"))
    assert main(["doctor", "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["families"] == {"wan": WRONG, "hunyuan": "", "cosmos3": ""} and found["problems"] == [WRONG]
    assert found["server"] == f"a server started now would not start: {WRONG}"
    assert printed.err == f"lvsa doctor: a server does not start here: {WRONG}\n"
    monkeypatch.setenv("LVSA_WAN_HOOK", "0")
    assert main(["doctor"]) == 0, "who does not switch it on can start a server"
    assert f"wan: {WRONG}" in capsys.readouterr().out.splitlines()


def test_wrong_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor", "--markdown"]) == 2
    assert capsys.readouterr().err == "lvsa doctor: --markdown is for the table: give --matrix too\n"
    monkeypatch.setenv("LVSA_WINDOW", "3")
    assert main(["doctor", "--matrix", "--json"]) == 2
    assert "give it without --matrix" in capsys.readouterr().err
    assert main(["doctor"]) == 2
    assert "LVSA_WINDOW is not a setting of LVSA; did you mean LVSA_WINDOW_SIZE?" in capsys.readouterr().err

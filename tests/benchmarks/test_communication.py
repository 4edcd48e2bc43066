"""The benchmark of the communication in two processes: bytes and equal outputs; no time of it is judged here."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from communication import parse_arguments
from report import milliseconds

from lvsa_core import FrameGrid, plan

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "communication.py"
FRAMES, PATCHES, HEADS = 44, 4, 2


@pytest.mark.multiproc
def test_two_ranks(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "results.json"), "--figure", str(tmp_path / "figure.png")]
    sizes = ["--ranks", "2", "--frames", str(FRAMES), "--patches", str(PATCHES), "--heads", str(HEADS)]
    command = [sys.executable, str(SCRIPT), *sizes, "--repeats", "2", "--step", "1", *files]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr

    results = json.loads((tmp_path / "results.json").read_text())
    (row,) = results["rows"]
    assert set(results["machine"]) >= {"date", "command", "processor", "versions", "backend"}
    assert (row["ranks"], row["tokens"]) == (2, FrameGrid(FRAMES, PATCHES).tokens)
    assert max(row["apart"].values()) < 1e-5
    assert min(row["seconds"].values()) > 0

    pattern, half = plan(FRAMES, reference_frames=21, step=1), FRAMES // 2
    held = (range(half), range(half, FRAMES))
    needed = [
        sum(any(pattern.allows(q, k) for q in held[1 - rank]) for k in held[rank]) for rank in range(2)
    ]  # frames that the other rank needs
    frame = 2 * PATCHES * HEADS * 128 * 4
    assert row["sent"]["lvsa"]["most"] == row["sent"]["lvsa, overlap"]["most"] == max(needed) * frame
    assert row["sent"]["lvsa"]["mean"] == sum(needed) / 2 * frame
    assert row["sent"]["all-gather"]["mean"] == row["sent"]["ring"]["mean"] == half * frame
    for sent in row["sent"].values():  # Linux's count, with gloo's headers
        assert sent["mean"] <= sent["written"] < sent["mean"] + 8192
    assert f"| 2 | all-gather | sparse | {milliseconds(row['seconds']['all-gather'])}" in finished.stdout
    assert (tmp_path / "figure.png").exists() == bool(find_spec("matplotlib"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ranks", "2", "--frames", "21", "--patches", "5"], "105 tokens cannot be divided among 2 ranks"),
        (["--ranks", "two"], "argument --ranks: takes numbers separated by commas, got two"),
        (["--device", "cuda"], "--device cuda needs a GPU for each of 4 ranks, PyTorch finds 1"),
    ],
)
def test_arguments_that_do_not_fit(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["communication.py", *arguments])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(SystemExit, match=r"^2$"):
        parse_arguments()
    assert said in capsys.readouterr().err

"""The benchmark of the attention runs and writes what it prints; no number of it is judged here."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "attention.py"


def test_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    options = ["--frames", "21,24", "--patches", "8", "--head-size", "16", "--repeats", "2", "--patience", "0"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--json", str(file)])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    results = json.loads(file.read_text())
    dense, sparse = results["rows"]
    assert set(results["machine"]) >= {"date", "command", "processor", "versions"}
    assert (dense["density"], dense["tokens"]) == (1.0, 168) and "loop" not in dense["seconds"]
    assert sparse["overhead"] == pytest.approx(
        sparse["seconds"]["attend"] / sparse["seconds"]["dense"] / sparse["density"]
    )
    assert sum(sparse["parts"].values()) == pytest.approx(1) and min(sparse["parts"].values()) > 0
    assert set(sparse["planning"]) == {"known", "rotating", "new"} and min(sparse["planning"].values()) > 0
    assert sparse["memory"]["copies_of_qkv"] == 3 * 4 * sparse["tokens"] * 2 * 16
    printed = capsys.readouterr().out
    assert "| 24 | 0." in printed and "Largest overhead" not in printed

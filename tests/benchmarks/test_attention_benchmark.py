"""The benchmark of the attention runs and writes what it prints; no number of it is judged here."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import attention
import pytest


def test_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file, figure = tmp_path / "results.json", tmp_path / "figure.png"
    options = ["--frames", "21,24", "--patches", "8", "--head-size", "16", "--repeats", "2", "--patience", "0"]
    arguments = ["attention.py", *options, "--json", str(file), "--figure", str(figure), "--commit", "1234567"]
    monkeypatch.setattr(sys, "argv", arguments)
    attention.main()

    results = json.loads(file.read_text())
    dense, sparse = results["rows"]
    assert results["machine"].keys() >= {"date", "command", "commit", "processor", "device", "driver", "versions"}
    assert results["machine"]["commit"] == "1234567" and str(tmp_path) not in file.read_text()
    assert (dense["density"], dense["tokens"], [*dense["kernels"]]) == (1.0, 168, ["attend"])
    assert [*sparse["kernels"]] == ["attend", "two groups", "boost", "remap", "gathered", "loop"]
    assert sparse["failed"] == {}
    for row in sparse["kernels"].values():
        assert row["right"] and row["ratio"] == pytest.approx(row["seconds"] / sparse["dense"]["PyTorch"])
        assert row["overhead"] == pytest.approx(row["ratio"] / sparse["density"])
    extra = {name: row["extra_bytes"] for name, row in sparse["kernels"].items()}
    assert extra["two groups"] < extra["attend"]
    assert min(sparse["parts"].values()) > 0 and dense["parts"] is None
    assert {*sparse["planning"]} >= {"known", "new"} and min(sparse["planning"].values()) > 0
    assert sparse["bound_bytes"] == (3 * 16 + 2) * 4 * sparse["tokens"] * 2
    host = results["host"]
    assert host.keys() == {"attend", "the operator"} and min(host.values()) > 0
    printed = capsys.readouterr().out
    assert "The host's time for a layer: " in printed
    assert "a layer, T=24, 192 tokens, 2 heads, density 0." in printed and "| attend | " in printed
    assert "Largest overhead" not in printed and figure.exists() == bool(find_spec("matplotlib"))

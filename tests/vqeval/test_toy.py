"""Videos of a trained model: dense attention loops at four times its training length, and not at that itself."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from lvsa_core.facts import shipped
from vqeval.scores import ALARM

ROOT = Path(__file__).parents[2]
#: Of Toy Wan's rotary embedding, in latent frames (docs/quality.md). Dense videos repeat themselves after one or two.
PERIOD = 29.2
RECORD = json.loads((ROOT / "benchmarks" / "results" / "reproduce-toy.json").read_text())["rows"]


def judged(rows: list[dict[str, Any]]) -> dict[float, list[float | None]]:
    """By length, the lag in latent frames of each dense video that is called a loop; None if it is not."""
    toy, found = shipped()["toy-wan"], defaultdict(list)
    for row in rows:
        if row["method"] == "dense":
            lag = row["loop_lag_seconds"] if row["loop"] is not None and row["loop"] > ALARM["loop"] else None
            found[row["horizon"]].append(lag and lag * toy["fps"] / toy["vae_temporal_factor"])
    return found


def video(row: dict[str, Any]) -> tuple[Any, ...]:
    """Which of the dense videos it is."""
    return row["horizon"], row["prompt"], row["seed"]


def holds(rows: list[dict[str, Any]]) -> None:
    lags = judged(rows)
    right = [lag for lag in lags[4] if lag and min(abs(lag - PERIOD), abs(lag - 2 * PERIOD)) <= 1]
    assert len(lags[4]) == len(lags[1]) == 16
    assert len(right) >= 15 and lags[1] == [None] * 16


def test_the_videos_on_record() -> None:
    holds(RECORD)
    page = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    shown = re.findall(r"^\| ([14])x \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|", page, re.MULTILINE)
    assert len(shown) == 5
    for length, method, *numbers in shown:
        made = [row for row in RECORD if (row["horizon"], row["method"]) == (int(length), method)]
        for name, number in zip(("loop", "freeze", "composite"), numbers, strict=True):
            half_a_digit = 0.051 if name == "composite" else 0.0051
            assert float(number) == pytest.approx(fmean(row[name] for row in made), abs=half_a_digit)


@pytest.mark.engine
@pytest.mark.skipif(find_spec("vllm_omni") is None, reason="needs vLLM-Omni")
def test_videos_made_now(tmp_path: Path) -> None:
    """A quarter of those on record, again: the same, up to rounding."""
    command = [sys.executable, str(ROOT / "benchmarks" / "reproduce.py"), "--grid", "toy", "--methods", "dense"]
    command += ["--prompts", "4", "--seeds", "42"]
    subprocess.run([*command, "--output", str(tmp_path)], check=True, env={**os.environ, "LVSA_CPU": "1"})
    made = json.loads((tmp_path / "results.json").read_text())["rows"]
    before = {video(row): row for row in RECORD if row["method"] == "dense"}
    then = [before[video(row)] for row in made]
    assert [row["horizon"] for row in then] == [1] * 4 + [4] * 4
    assert [row["loop"] for row in made] == pytest.approx([row["loop"] for row in then], abs=0.02)
    assert [judged(made)[length] for length in (1, 4)] == [judged(then)[length] for length in (1, 4)]

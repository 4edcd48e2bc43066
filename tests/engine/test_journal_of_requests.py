"""LVSA_JOURNAL on the real engine: a line for each request that says what ran."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import REGISTRY

from tests.support.capabilities import batches_requests

LONG: dict[str, Any] = {"frames": 97, "prompt": "a cat", "seed": 1, "steps": 2}


def counted(outcome: str) -> float:
    """Requests on the metrics page with this outcome."""
    found = (
        sample for family in REGISTRY.collect() for sample in family.samples if sample.name == "lvsa_requests_total"
    )
    return sum(sample.value for sample in found if sample.labels["outcome"] == outcome)


def test_every_request_has_its_line(starting: Any, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    settings = {"LVSA_WAN_HOOK": "1", "LVSA_JOURNAL": str(file)}
    before = {outcome: counted(outcome) for outcome in ("sparse", "dense", "not run")}
    with starting(settings, max_num_seqs=2, request_batch_max_wait_ms=1000) as engine:
        plain = engine.denoised(**LONG)
        engine.denoised(**{**LONG, "frames": 17})
        engine.submit("bad", **LONG, extra_args={"lvsa": {"window": 1}})
        assert isinstance(engine.outcomes({"bad"})["bad"], str)
        for name, seed in (("one", 1), ("two", 2)):
            engine.submit(name, **{**LONG, "seed": seed}, extra_args={"lvsa": {"sparsity_scale": 0.5}})
        assert {type(video) for video in engine.outcomes({"one", "two"}).values()} == {np.ndarray}
    # The worker is this process, and its metrics stand beside the engine's own.
    assert [counted(outcome) - before[outcome] for outcome in before] == [3, 1, 1]
    long, short, bad, *both = (json.loads(line) for line in file.read_text().splitlines())
    assert (long["outcome"], long["steps"], long["sparse_steps"], long["family"]) == ("sparse", 2, 2, "wan")
    assert (long["latent_frames"], long["patches"], long["attended_per_frame"], long["batch"]) == (25, 16, 20, 1)
    assert 0 < long["density"] < 1 and long["kernel"] == "sdpa" and long["error"] is None
    assert 0 < long["attention_seconds"] < long["seconds"] and short["attention_seconds"] == 0
    assert (short["outcome"], short["density"], short["steps"], short["latent_frames"]) == ("dense", 1.0, 2, 5)
    assert short["reason"]
    assert (bad["outcome"], bad["request"], bad["knobs"]) == ("not run", "bad", {"window": 1})
    assert "has no knob 'window'" in bad["error"]
    assert {line["request"] for line in both} == {"one", "two"}
    assert {line["batch"] for line in both} == {2 if batches_requests() else 1}
    assert {line["attended_per_frame"] for line in both} == {10}
    assert "a cat" not in file.read_text()
    with starting({"LVSA_WAN_HOOK": "1", "LVSA_JOURNAL": str(tmp_path)}) as engine:  # a folder: no request fails for it
        assert np.array_equal(engine.denoised(**LONG), plain)

"""Metrics of requests, and the dashboard that shows them."""

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, generate_latest

from lvsa_core import FrameGrid, plan
from lvsa_vllm_omni import metrics
from lvsa_vllm_omni.request_journal import Ran

#: Of no other test: all share the process's metrics.
MODEL = "CountedPipeline"
DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"


def observe(error: str | None = None, **changed: Any) -> None:
    ran = Ran("wan", "sdpa")
    ran.call(0, FrameGrid(41, 12), "beyond the attention budget of 21 latent frames", plan(41, reference_frames=21))
    metrics.observe({"model": MODEL, "error": error, "batch": 1, **ran.told(), **changed})


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": MODEL, **labels}) or 0.0


def test_reasons_are_few() -> None:
    """Each value of a label is a series that the server keeps for ever: requests' own numbers are in none."""
    for budget in (21, 21.5, 1000):
        observe(outcome="dense", reason=f"within the attention budget of {budget} latent frames (x=1e-3)")
    page = generate_latest(REGISTRY).decode()
    found = set(re.findall(rf'lvsa_requests_total\{{model="{MODEL}",outcome="dense",reason="(.*?)"\}}', page))
    assert found == {"within the attention budget of N latent frames (x=Ne-N)"}


def test_what_is_counted() -> None:
    outcomes = {outcome: dict(outcome=outcome, reason="beyond the attention budget of N latent frames") for outcome in
                ("sparse", "failed", "not run")}  # fmt: skip
    before = {name: value("lvsa_requests_total", **labels) for name, labels in outcomes.items()}
    attention, density = value("lvsa_attention_seconds_count"), value("lvsa_request_density_sum")
    lost = value("lvsa_fallbacks_total", reason="mask")
    observe(fallbacks={"mask": 3})
    observe("OutOfMemoryError: no")
    observe("bad knobs", outcome="not run", density=None, sparse_steps=0)
    after = {name: value("lvsa_requests_total", **labels) for name, labels in outcomes.items()}
    assert {name: after[name] - before[name] for name in outcomes} == dict.fromkeys(outcomes, 1)
    assert value("lvsa_attention_seconds_count") - attention == 2
    expected = 2 * round(plan(41, reference_frames=21).density, 4)
    assert abs(value("lvsa_request_density_sum") - density - expected) < 1e-9
    assert value("lvsa_fallbacks_total", reason="mask") - lost == 3
    seconds = value("lvsa_attention_seconds_sum")
    for _ in range(4):  # four requests that ran together share the time of their attention
        observe(batch=4, attention_seconds=2.0)
    assert abs(value("lvsa_attention_seconds_sum") - seconds - 2.0) < 1e-9
    observe(attention_seconds=None)  # a clock that could not be read
    assert abs(value("lvsa_attention_seconds_sum") - seconds - 2.0) < 1e-9


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    observe(fallbacks={"mask": 1})
    dashboard = json.loads(DASHBOARD.read_text())
    page = generate_latest(REGISTRY).decode()
    there = set(re.findall(r"^(lvsa_\w+)\{", page, re.M))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for expression in expressions for name in re.findall(r"\blvsa_\w+", expression)}
    assert asked <= there and {"lvsa_requests_total", "lvsa_fallbacks_total"} < asked
    labels = {label for text in expressions for by in re.findall(r"by \((.*?)\)", text) for label in by.split(", ")}
    assert labels <= set(re.findall(r'(\w+)="', page))
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(set(places)) == len(places)

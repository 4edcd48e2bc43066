"""What requests ran, as metrics of the server: they stand on its /metrics where it can see the worker's.

It can where both are one process, and where ``PROMETHEUS_MULTIPROC_DIR`` was set before they started, as ``lvsa serve``
does: then the processes share a folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from prometheus_client import Counter, Histogram

_SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)


class Metrics(NamedTuple):
    """What is counted of requests, each by the pipeline's class."""

    requests: Counter
    fallbacks: Counter
    density: Histogram
    attention: Histogram


@lru_cache(maxsize=1)
def metrics() -> Metrics:
    """Make them once in a process, when it has its first request: other processes have none to show."""
    return Metrics(
        Counter("lvsa_requests", "Requests, by what ran and why.", ("model", "outcome", "reason")),
        Counter("lvsa_fallbacks", "Surprises in running requests, each dense for a call.", ("model", "reason")),
        Histogram(
            "lvsa_request_density", "Attended pairs of frames over all, mean of the steps.", ("model",), buckets=_SHARES
        ),
        Histogram("lvsa_attention_seconds", "Time of LVSA's attention in a request.", ("model",), buckets=_SECONDS),
    )


def observe(line: Mapping[str, Any]) -> None:
    """Count a request.

    Args:
        line: of the journal. Numbers in its reason are left out: a label has few values.
    """
    found, model = metrics(), line["model"]
    outcome = "failed" if line["error"] and line["outcome"] != "not run" else line["outcome"]
    found.requests.labels(model, outcome, re.sub(r"[0-9][0-9.]*", "N", line["reason"])).inc()
    for reason, times in line["fallbacks"].items():
        found.fallbacks.labels(model, reason).inc(times)
    if line["density"] is not None:
        found.density.labels(model).observe(line["density"])
    if line["sparse_steps"] and line["attention_seconds"] is not None:  # requests of a batch share the time
        found.attention.labels(model).observe(line["attention_seconds"] / line["batch"])

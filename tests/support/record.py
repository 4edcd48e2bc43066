"""The record of a run of tests: date, versions and outcomes, as JSON."""

import json
import platform
from collections import Counter
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest


def versions() -> dict[str, str]:
    """What the tests run on, as several versions may be installed."""
    found: dict[str, str] = {}
    for name in ("torch", "vllm", "vllm-omni", "diffusers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Record:
    """Writes what ran: the number of outcomes of each kind, why tests were skipped, the outcome of every placement."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.outcomes: dict[str, str] = {}
        self.skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            expected = report.skipped and hasattr(report, "wasxfail")
            self.outcomes[report.nodeid] = "expected failure" if expected else report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_sessionfinish(self) -> None:
        placements = {name: outcome for name, outcome in self.outcomes.items() if "test_placements.py::" in name}
        record = {
            "date": date.today().isoformat(),
            "versions": versions(),
            "python": ".".join(platform.python_version_tuple()[:2]),
            "skipped": dict(self.skipped),
            "outcomes": dict(Counter(self.outcomes.values())),
            "placements": {name.partition("::")[2]: outcome for name, outcome in placements.items()},
        }
        self.file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")

"""Runs ``tests/gpu``: every test has a result of its own, also where one ends the process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lvsa_core.kernels import KERNELS
from lvsa_vllm_omni.measure.apart import Answer, Result, answer_or_leave, first_line
from lvsa_vllm_omni.measure.machine import ROOT

COLLECT = "the list of tests/gpu"
OPTIONS = ["-qqq", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
#: Outcomes of a test's parts, the worst last.
OUTCOMES = ["passed", "skipped", "failed"]


def tests(left_out: Sequence[str], jobs: Sequence[str], answer: Answer) -> None:
    """Work of tests by name, or of :data:`COLLECT`, whose result has the names; without those of some kernels."""
    for name in left_out:
        KERNELS.pop(name, None)
    try:
        import pytest
    except ImportError as error:
        return answer(jobs[0], {"result": "unavailable", "reason": first_line(error)})
    os.chdir(ROOT)
    if list(jobs) != [COLLECT]:
        pytest.main([*OPTIONS, *jobs], plugins=[Reporter(answer)])
        return
    collected = Collected()
    status = pytest.main([*OPTIONS, "--collect-only", "tests/gpu"], plugins=[collected])
    result = {"result": "failed", "reason": f"pytest ends with {status!r}"} if status else {"result": "right"}
    answer(COLLECT, {**result, "tests": collected.names})


class Collected:
    """Names of tests, as a plugin of pytest."""

    names: list[str]

    def pytest_collection_finish(self, session: Any) -> None:
        self.names = [item.nodeid for item in session.items]


class Reporter:
    """Answers each test, as a plugin of pytest."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.found: Result = {}

    def pytest_runtest_logstart(self) -> None:
        self.found = {"result": "passed"}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if OUTCOMES.index(report.outcome) > OUTCOMES.index(self.found["result"]):
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            lines = [line for line in text.splitlines() if line.startswith("E ")] or [text]
            self.found = {"result": report.outcome, "reason": lines[0].removeprefix("E").strip()[:300]}

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        answer_or_leave(nodeid, self.found, self.answer)

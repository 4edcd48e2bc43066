"""Work in processes of their own, which really end, hang and raise."""

import time

import pytest

from lvsa_vllm_omni.measure.apart import apart
from tests.support.apart_work import follow

pytestmark = pytest.mark.slow  # each starts processes


def test_what_ends_a_process_costs_one_result() -> None:
    jobs = ["first", "abort", "second", "raise", "third", "leave"]
    found = dict(apart(follow, jobs, 60, time.monotonic() + 60))
    assert [*found] == jobs
    assert found["abort"] == {"result": "crashed", "reason": "its process ended with SIGABRT"}
    assert found["leave"] == {"result": "crashed", "reason": "its process ended with exit status 3"}
    assert found["raise"] == {"result": "failed", "reason": "OSError: a library is missing"}
    assert found["second"]["process"] == found["third"]["process"] != found["first"]["process"]


def test_what_hangs_is_ended() -> None:
    found = dict(apart(follow, ["sleep", "next"], 4, time.monotonic() + 60))
    assert found["sleep"] == {"result": "crashed", "reason": "no result within 4 s"}
    assert found["next"]["result"] == "right"


def test_what_has_no_time_has_no_result() -> None:
    """The next call begins with it."""
    start = time.monotonic()
    assert [job for job, _ in apart(follow, ["first", "sleep", "next"], 60, start + 3)] == ["first"]
    assert time.monotonic() - start < 30
    assert [*apart(follow, ["next"], 60, start)] == []

"""Several ranks make the video of one, by the same pattern, whatever the placement."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.placements import ALL, CASES, FAMILIES, LIMITS, LIMITS_SAMPLE, SAMPLE, Placed
from tests.support.way import documented, watch
from tests.support.worker import Result

Run = Callable[..., list[Result]]
rest = pytest.mark.rest_of_table


@pytest.mark.parametrize(
    ("family", "placement", "size"),
    [pytest.param(*case, id="-".join(case), marks=() if case[:2] in SAMPLE else rest) for case in CASES],
)
def test_ranks_do_what_one_does(run: Run, alone: Callable[..., Result], family: str, placement: str, size: str) -> None:
    placed = ALL[placement]
    one, results = alone(FAMILIES[family], placed, size), run(FAMILIES[family], placed, size)
    for result in (one, *results):
        assert not result.error, result.error
    # The engine takes the output of the first rank; a stage between the first and the last has none.
    np.testing.assert_allclose(results[0].output, one.output, rtol=0, atol=1e-4)
    assert one.counts["request:sparse"] and one.patterns
    for result in results:
        assert result.counts == one.counts, "\n".join(result.log)
        assert result.patterns == one.patterns
    _check_calls(placed, one, results)


def _check_calls(placement: Placed, one: Result, results: list[Result]) -> None:
    """The ranks really divided the work: the calls of a rank, and the queries and heads of a call."""
    if placement.share is not None:
        assert {len(result.calls) for result in results} == {placement.share * len(one.calls)}
    else:
        assert all(len(result.calls) < len(one.calls) for result in results)
    whole = one.calls[0].queries * one.calls[0].heads
    largest = max(call.queries * call.heads for result in results for call in result.calls)
    assert largest == whole if placement.parts == 1 else largest < whole


@pytest.mark.parametrize(
    ("limit", "lvsa"),
    [
        pytest.param(limit, lvsa, id=f"{limit}-{name}", marks=() if lvsa and limit in LIMITS_SAMPLE else rest)
        for limit in LIMITS
        for lvsa, name in ((False, "without"), (True, "with LVSA"))
    ],
)
def test_limits_of_the_engine(run: Run, limit: str, lvsa: bool) -> None:
    """It is the engine that refuses. Where this fails it can do more than it could: add the case to the table."""
    family, placement, size, message = LIMITS[limit]
    errors = [result.error for result in run(FAMILIES[family], placement, size, None if lvsa else {})]
    assert any(message in error for error in errors), errors
    assert not any("LVSA cannot" in error for error in errors)


def test_a_ring_that_does_not_divide_the_warm_up(run: Run) -> None:
    """The engine's first request has 32 x 32 tokens: with such a ring no server starts, whatever it would be asked."""
    family = replace(FAMILIES["wan"], long=1)
    errors = [result.error for result in run(family, Placed(3, {"ring_degree": 3}), (512, 512))]
    assert any("Sequence length (1024) is not divisible by SP world size (3)" in error for error in errors), errors


def notes_its_way(rank: int) -> None:
    """A line of the log for each call of the kernel in a ring: the functions that it came through."""
    import lvsa_core.sharded.attention as sharded
    from lvsa_vllm_omni import journal

    class Lines(list[list[str]]):
        def append(self, way: list[str]) -> None:
            journal.logger.info("[LVSA-WAY] %s", " ".join(way))

    watch(pytest.MonkeyPatch(), sharded, Lines())


def test_the_way_to_the_kernel_in_a_ring(run: Run) -> None:
    """It is the one that docs/architecture.md lists, after the first three functions of one rank's."""
    rows = [documented("In vLLM-Omni")[0], *documented("Where ranks divide the keys (Ring)")]
    expected = "[LVSA-WAY] " + " ".join(name for row in rows for name in row)
    for result in run(FAMILIES["wan"], ALL["ring2"], "even", prepare=notes_its_way):
        assert not result.error, result.error
        ways = [line for line in result.log if line.startswith("[LVSA-WAY]")]
        assert ways and {way[:10] + way[way.index(" __call__") :] for way in ways} == {expected}

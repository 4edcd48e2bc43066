"""Ranks that work in groups of heads make the same video, also where the budgets of ranks differ."""

import os
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.placements import ALL, FAMILIES, Placed
from tests.support.worker import Result


def no_memory(rank: int) -> None:
    """For the first rank."""
    if rank == 0:
        os.environ["LVSA_EXTRA_MEMORY"] = "0"


@pytest.mark.parametrize(("family", "placement"), [("wan", "ulysses2"), ("hunyuan", "ring2")])
def test_the_video(run: Callable[..., list[Result]], family: str, placement: str) -> None:
    about = FAMILIES[family]
    (one,) = run(about, Placed(1), "even")
    first, second = run(about, ALL[placement], "even", prepare=no_memory)
    assert not (one.error or first.error or second.error), (one.error, first.error, second.error)
    np.testing.assert_allclose(first.output, one.output, rtol=0, atol=1e-4)
    grouped = [any("groups of heads" in line for line in result.log) for result in (one, first, second)]
    assert grouped == [False, True, False]

"""Toy Wan, which is trained, on two ranks: the same video as on one. Its three heads do not divide."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.placements import ALL, FAMILIES
from tests.support.worker import Result


@pytest.mark.parametrize("placement", ["uaa2", "ring2"])
def test_two_ranks_make_the_same_video(run: Callable[..., list[Result]], placement: str) -> None:
    toy = replace(FAMILIES["wan"], kind="toy-wan", blocks=4, long=161)
    (one,) = run(toy, replace(ALL[placement], ranks=1, parallel={}), "even")
    results = run(toy, ALL[placement], "even")
    for result in (one, *results):
        assert not result.error, result.error
        assert result.calls
    assert np.abs(one.output).max() > 0.1
    np.testing.assert_allclose(results[0].output, one.output, rtol=0, atol=1e-4)

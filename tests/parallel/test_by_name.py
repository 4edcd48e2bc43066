"""LVSA chosen by name in the engine's attention configuration, on several ranks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.placements import ALL, FAMILIES
from tests.support.worker import Result

BY_NAME = {"diffusion_attention_config": {"per_role": {"self": {"backend": "LVSA"}}}}


@pytest.mark.parametrize("placement", ["ring2", "ulysses2", "allgather2"])
def test_long_and_short(run: Callable[..., list[Result]], alone: Callable[..., Result], placement: str) -> None:
    """The engine builds its ring for a backend that it does not know; dense requests take the platform's."""
    about, placed = FAMILIES["wan"], ALL[placement]
    named = replace(about, options=BY_NAME)
    one, results = alone(about, placed, "even"), run(named, placed, "even", {"LVSA_STRICT": "1"})
    for result in results:
        assert not result.error, result.error
        assert result.patterns == one.patterns
    np.testing.assert_allclose(results[0].output, one.output, rtol=0, atol=1e-4)

    short = replace(about, long=33)
    (dense,) = run(short, replace(placed, ranks=1, parallel={}), "even", {})
    results = run(replace(short, options=BY_NAME), placed, "even", {"LVSA_STRICT": "1"})
    for result in results:
        assert not result.error, result.error
        assert not result.calls
    np.testing.assert_allclose(results[0].output, dense.output, rtol=0, atol=1e-4)

"""RIFLEx in the engine: off by default and at 1, for long requests only, and the same on several ranks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.placements import ALL, FAMILIES, Placed
from tests.support.worker import Result

Run = Callable[..., list[Result]]
ONE = Placed(1)


@pytest.mark.parametrize(("family", "placement"), [("wan", "ulysses2"), ("hunyuan", "ring2")])
def test_the_video_and_the_ranks(run: Run, family: str, placement: str) -> None:
    about = FAMILIES[family]

    def video(placed: Placed, **riflex: str) -> np.ndarray:
        settings = {about.hook: "1", "LVSA_STRICT": "1", **riflex}
        first, *_ = run(about, placed, "even", settings)
        assert not first.error, first.error
        assert any("[LVSA] RIFLEx: temporal frequency" in line for line in first.log) == (riflex == TWICE)
        return first.output

    plain, once, twice = video(ONE), video(ONE, LVSA_RIFLEX_SCALE="1"), video(ONE, **TWICE)
    assert np.array_equal(plain, once)
    assert np.abs(twice - plain).max() > 1e-3
    np.testing.assert_allclose(video(ALL[placement], **TWICE), twice, rtol=0, atol=1e-4)


TWICE = {"LVSA_RIFLEX_SCALE": "2"}


def test_short_requests_are_as_before(run: Run) -> None:
    short = replace(FAMILIES["wan"], long=81)
    (plain,) = run(short, ONE, "even", {short.hook: "1"})
    (scaled,) = run(short, ONE, "even", {short.hook: "1", **TWICE})
    assert np.array_equal(plain.output, scaled.output)


def test_a_family_without_such_an_embedding(run: Run) -> None:
    about = FAMILIES["cosmos3"]
    (result,) = run(about, ONE, "even", {about.hook: "1", **TWICE})
    assert "and this cosmos3 is not known as one: leave LVSA_RIFLEX_SCALE=2 out" in result.error

"""From quantities to scores, and from scores to the composite."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqeval import Dimension, InputError
from vqeval.scores import PAPER, composite, of_amount, of_ratio, of_share

SCORES = st.floats(0.001, 100)


def scored(**scores: float) -> dict[str, Dimension]:
    return {name: Dimension(value=1.0, score=score) for name, score in scores.items()}


@given(st.lists(SCORES, min_size=1, max_size=8))
def test_the_composite_is_the_geometric_mean(scores: list[float]) -> None:
    found, reason, used = composite(scored(**{f"d{i}": score for i, score in enumerate(scores)}))
    assert found == pytest.approx(math.prod(scores) ** (1 / len(scores)), rel=1e-9)
    assert reason is None and list(used.values()) == [1.0] * len(scores)


@pytest.mark.parametrize("count", range(1, 13))
def test_the_composite_passes_no_hundred(count: int) -> None:
    """The sum of equal logarithms is rounded."""
    assert composite(scored(**{f"d{i}": 100.0 for i in range(count)}))[0] == pytest.approx(100)
    assert (composite(scored(**{f"d{i}": 100.0 for i in range(count)}))[0] or 0) <= 100


def test_nothing_outweighs_a_loop() -> None:
    good = scored(freeze=100, mirror=100, flicker=100, drift=100, blur=100, noise=100)
    looped = composite({**good, "loop": Dimension(value=0.75, score=of_share(0.75))})[0]
    assert looped is not None and looped < 50
    assert composite({**good, "loop": Dimension(value=1, score=0)})[0] == 0


def test_what_does_not_count_and_what_has_no_score_is_left_out() -> None:
    dimensions = scored(loop=50, blur=100) | {
        "return": Dimension(value=0.1, score=1, counted=False),
        "mirror": Dimension(reason="too little motion to judge"),
    }
    found, _, used = composite(dimensions)
    assert found == pytest.approx(math.sqrt(5000)) and list(used) == ["loop", "blur"]


def test_no_composite_when_a_dimension_that_was_asked_for_failed() -> None:
    dimensions = scored(loop=50) | {"image_quality": Dimension(failed=True, reason="pyiqa is not installed")}
    for profile in ("equal", "paper"):
        found, reason, used = composite(dimensions, profile=profile)
        assert (found, used) == (None, {})
        assert reason == "a dimension that was asked for failed; image_quality: pyiqa is not installed"


def test_no_composite_of_nothing() -> None:
    assert composite({"loop": Dimension(reason="too short")}) == (None, "no dimension with a weight has a score", {})
    assert composite(scored(loop=50), {"loop": 0})[0] is None


def test_weights() -> None:
    found, _, used = composite(scored(loop=10, blur=100, noise=1), {"loop": 3, "blur": 1})
    assert found == pytest.approx(10 ** (3 / 4) * 100 ** (1 / 4)) and used == {"loop": 3, "blur": 1}
    with pytest.raises(InputError, match="no dimension is called 'lop'; there are loop, blur"):
        composite(scored(loop=10, blur=100), {"lop": 1})
    for weight in (-1, math.nan, math.inf):
        with pytest.raises(InputError, match="a weight is 0 or more"):
            composite(scored(loop=10), {"loop": weight})


def test_the_published_weights() -> None:
    """Their sum is 1, and without a prompt the weight of text alignment goes to the others."""
    assert sum(weight for weight, _ in PAPER.values()) == pytest.approx(1)
    found, _, used = composite(scored(blur=80, flicker=60, loop=40, noise=20, freeze=100), profile="paper")
    assert found == pytest.approx((0.20 * 80 + 0.25 * 60 + 0.15 * 40 + 0.20 * 20 + 0.10 * 100) / 0.90)
    assert sum(used.values()) == pytest.approx(1)
    with_prompt, _, used = composite(
        scored(blur=80, image_quality=60, flicker=60, loop=40, noise=20, drift=40, freeze=100, text_alignment=0),
        profile="paper",
    )
    assert with_prompt == pytest.approx(0.20 * 70 + 0.25 * 60 + 0.15 * 40 + 0.20 * 30 + 0.10 * 100)
    assert used["blur"] == pytest.approx(0.10)
    with pytest.raises(InputError, match="there are equal and paper"):
        composite(scored(blur=80), profile="vbench")


@given(st.floats(0, 1), st.floats(0, 1))
def test_scores_fall_with_the_share(a: float, b: float) -> None:
    assert 0 <= of_share(a) <= 100
    assert a >= b or of_share(a) >= of_share(b)


@pytest.mark.parametrize("name", ["flicker", "drift", "blur", "noise"])
def test_scores_of_amounts(name: str) -> None:
    assert of_amount(name, 0) == 100
    values = [of_amount(name, x / 10) for x in range(200)]
    assert values == sorted(values, reverse=True) and 0 <= values[-1] < 50


def test_more_motion_than_the_reference_is_no_merit() -> None:
    assert [of_ratio(x) for x in (0, 0.5, 1, 2)] == [0, 50, 100, 100]

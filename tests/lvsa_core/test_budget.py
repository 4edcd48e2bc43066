"""The automatic keyframe interval against its formula, evaluated the long way."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsa_core import Pattern, keyframe_interval
from lvsa_core.budget import scaled_reference


def by_definition(frames: int, reference: int, window: int, n_first: int, scale: float) -> int:
    scaled = max(n_first + 1, int(reference * scale))
    if frames <= scaled:
        return 1
    need = max(n_first, scaled - min(2 * window + 1, frames))
    strict = 1
    for interval in range(1, frames + 1):
        if len({*range(min(n_first, frames)), *range(0, frames, interval)}) >= need:
            strict = interval
    fixed = 2 * window + n_first
    return max(strict, math.ceil(max(frames - fixed, scaled - fixed) / max(scaled - fixed, 1)))


@given(
    frames=st.integers(1, 150),
    reference=st.integers(1, 60),
    window=st.integers(0, 14),
    n_first=st.integers(0, 10),
    scale=st.floats(0, 3) | st.sampled_from([0.5, 1.0, 2, 1]),
)
def test_definition(frames: int, reference: int, window: int, n_first: int, scale: float) -> None:
    assert keyframe_interval(
        frames, reference_frames=reference, window=window, n_first=n_first, sparsity_scale=scale
    ) == by_definition(frames, reference, window, n_first, scale)


@pytest.mark.parametrize(
    ("frames", "scale", "interval"),
    [(81, 1.0, 6), (81, 0.5, 40), (81, 2.0, 3), (42, 2.0, 1), (43, 2.0, 2), (1, 1.0, 1)],
)
def test_scale(frames: int, scale: float, interval: int) -> None:
    assert keyframe_interval(frames, reference_frames=21, sparsity_scale=scale) == interval


@given(st.integers(1, 100), st.integers(1, 40))
def test_dense_up_to_the_scaled_reference_and_only_there(frames: int, reference: int) -> None:
    interval = keyframe_interval(frames, reference_frames=reference)
    assert Pattern(frames, keyframe_interval=interval).is_dense or frames > scaled_reference(reference)
    assert (interval == 1) == (frames <= scaled_reference(reference))


def test_scaled_reference() -> None:
    assert scaled_reference(21) == 21
    assert scaled_reference(21, sparsity_scale=0.5) == 10
    assert scaled_reference(21, sparsity_scale=0, n_first=4) == 5


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("frames", 0, "an integer of at least 1"),
        ("frames", 81.0, "an integer of at least 1"),
        ("reference_frames", 0, "an integer of at least 1"),
        ("reference_frames", True, "an integer of at least 1"),
        ("window", -1, "an integer of at least 0"),
        ("n_first", -1, "an integer of at least 0"),
        ("sparsity_scale", -1, "a finite number of at least 0"),
        ("sparsity_scale", math.nan, "a finite number of at least 0"),
        ("sparsity_scale", math.inf, "a finite number of at least 0"),
        ("sparsity_scale", "1.0", "a finite number of at least 0"),
    ],
)
def test_refuses(name: str, value: Any, accepted: str) -> None:
    arguments: dict[str, Any] = {"frames": 81, "reference_frames": 1, "window": 3, "n_first": 1, "sparsity_scale": 1.0}
    keyframe_interval(**arguments)  # equal numbers of the right type are cached already
    with pytest.raises(ValueError, match=rf"^{name} must be {accepted}, got {value!r}$"):
        keyframe_interval(**{**arguments, name: value})


def test_a_number_beyond_all_lengths() -> None:
    with pytest.raises(ValueError, match="window must be at most 2147483647"):
        keyframe_interval(81, reference_frames=21, window=10**9000)


def test_a_scale_beyond_all_lengths_is_dense() -> None:
    assert keyframe_interval(481, reference_frames=21, sparsity_scale=1e308) == 1

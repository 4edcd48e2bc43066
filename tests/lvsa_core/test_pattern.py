"""Anchors and windows: the published pattern, and what must hold for every pattern."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsa_core import Pattern, keyframe_interval, plan
from tests.support.strategies import patterns

PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "pattern_examples.json").read_text())["cases"]


def case_name(case: dict[str, Any]) -> str:
    return "T{frames}-W{window}-n{n_first}-ref{reference}-step{step}".format(**case)


def wan(frames: int, **changes: Any) -> Pattern:
    return plan(frames, **{"reference_frames": 21, **changes})


@pytest.mark.parametrize("case", PUBLISHED, ids=case_name)
def test_published_pattern(case: dict[str, Any]) -> None:
    pattern = plan(
        case["frames"],
        reference_frames=case["reference"],
        window=case["window"],
        n_first=case["n_first"],
        sparsity_scale=case["sparsity_scale"],
        expand_window=case["expand_window"],
        step=case["step"],
    )
    assert pattern.keyframe_interval == case["keyframe_interval"]
    assert pattern.offset == case["offset"]
    assert list(pattern.anchors) == case["anchors"]
    assert [list(pattern.window_bounds(frame)) for frame in range(pattern.frames)] == case["window_bounds"]


def test_published_cases_cover_what_they_should() -> None:
    assert len(PUBLISHED) == 60
    assert all(case["automatic_interval"] for case in PUBLISHED)
    assert any(case["offset"] for case in PUBLISHED) and not all(case["expand_window"] for case in PUBLISHED)


@pytest.mark.parametrize(
    ("reference", "frames", "interval", "anchors", "attended", "density"),
    [
        (21, 21, 1, 21, 21, 1.0),
        (21, 22, 2, 11, 18, 0.818),
        (21, 41, 3, 14, 21, 0.512),
        (21, 61, 4, 16, 23, 0.377),
        (21, 81, 6, 14, 21, 0.259),
        (21, 121, 9, 14, 21, 0.174),
        (31, 61, 3, 21, 28, 0.459),
        (33, 33, 1, 33, 33, 1.0),
        (33, 49, 2, 25, 32, 0.653),
        (33, 65, 3, 22, 29, 0.446),
        (48, 80, 2, 40, 47, 0.588),
        (13, 26, 5, 6, 13, 0.5),
    ],
)
def test_worked_values(reference: int, frames: int, interval: int, anchors: int, attended: int, density: float) -> None:
    pattern = plan(frames, reference_frames=reference)
    assert pattern.keyframe_interval == interval
    assert len(pattern.anchors) == anchors
    assert {pattern.attended_count(frame) for frame in range(frames)} == {attended}
    assert abs(pattern.density - density) < 0.0006
    assert pattern.is_dense == (interval == 1)


def test_worked_windows() -> None:
    pattern = wan(81)
    assert pattern.anchors == tuple(range(0, 81, 6))
    windows = {0: (0, 8), 1: (0, 8), 3: (0, 8), 6: (2, 9), 40: (36, 44), 42: (38, 45), 77: (73, 80), 80: (73, 80)}
    assert {frame: pattern.window_bounds(frame) for frame in windows} == windows


@pytest.mark.parametrize(
    ("step", "anchors", "attended"),
    [
        (0, (*range(0, 81, 6),), 21),
        (1, (0, *range(1, 81, 6)), 22),
        (3, (0, *range(3, 81, 6)), 21),
        (6, (*range(0, 81, 6),), 21),
    ],
)
def test_rotation(step: int, anchors: tuple[int, ...], attended: int) -> None:
    assert wan(81, step=step).anchors == anchors
    assert wan(81, step=step).attended_count(40) == attended
    assert wan(81, step=step, rotate=False) is wan(81)


def test_edges() -> None:
    assert wan(1) == Pattern(1) and wan(1).is_dense and wan(1).attended(0) == (0,)
    for reference in (6, 7, 8):
        assert wan(81, reference_frames=reference).anchors == (0,)
    assert wan(81, n_first=0).keyframe_interval == 6
    assert Pattern(10, window=0, n_first=0, keyframe_interval=5).attended(3) == (0, 3, 5)
    assert Pattern(9, window=1, keyframe_interval=4, expand_window=False).windows == (
        *((0, 2), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 8), (6, 8)),
    )


@given(patterns())
def test_a_frame_attends_to_anchors_and_to_its_window(pattern: Pattern) -> None:
    everything = range(pattern.frames)
    for frame in everything:
        low, high = pattern.window_bounds(frame)
        expected = tuple(sorted({*pattern.anchors, *range(low, high + 1)}))
        assert pattern.attended(frame) == expected
        assert pattern.attended(frame) == tuple(key for key in everything if pattern.allows(frame, key))
        assert pattern.attended_count(frame) == len(expected)
        assert low <= frame <= high and pattern.allows(frame, frame)
        assert low >= 0 and high < pattern.frames


@given(patterns())
def test_expanded_window_gives_every_frame_the_same_count(pattern: Pattern) -> None:
    width = 2 * pattern.window + 1
    remaining = [frame for frame in range(pattern.frames) if frame not in pattern.anchors]
    for frame in range(pattern.frames):
        low, high = pattern.window_bounds(frame)
        if pattern.expand_window and pattern.window:
            assert pattern.attended_count(frame) == len(pattern.anchors) + min(width, len(remaining))
        else:
            assert high - low + 1 == min(width, pattern.frames)
        own = [key for key in pattern.attended(frame) if key not in pattern.anchors]
        if own:  # one contiguous run of the remaining frames, which is what a kernel reads
            start = remaining.index(own[0])
            assert own == remaining[start : start + len(own)]
            assert start == pattern.nonanchors_before[low]


@given(patterns())
def test_later_frames_have_later_windows(pattern: Pattern) -> None:
    lows, highs = zip(*pattern.windows, strict=True)
    assert list(lows) == sorted(lows) and list(highs) == sorted(highs)


@given(patterns())
def test_ranks_count_the_frames_that_are_no_anchors(pattern: Pattern) -> None:
    assert pattern.nonanchors_before == tuple(
        sum(earlier not in pattern.anchors for earlier in range(frame)) for frame in range(pattern.frames + 1)
    )


@given(patterns())
def test_density_is_attended_pairs_over_all_pairs(pattern: Pattern) -> None:
    pairs = sum(pattern.allows(q, k) for q in range(pattern.frames) for k in range(pattern.frames))
    assert pattern.density == pairs / pattern.frames**2
    assert pattern.is_dense == (pairs == pattern.frames**2)


@given(st.integers(1, 130), st.integers(0, 12), st.integers(0, 5), st.none() | st.integers(1, 20), st.integers(0, 50))
def test_every_frame_is_an_anchor_once_in_an_interval(
    frames: int, window: int, n_first: int, interval: int | None, first: int
) -> None:
    def at(step: int) -> Pattern:
        return plan(frames, reference_frames=13, window=window, n_first=n_first, keyframe_interval=interval, step=step)

    length = at(0).keyframe_interval
    assert {frame for step in range(first, first + length) for frame in at(step).anchors} == set(range(frames))
    assert at(first) is at(first + length)


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 4), st.integers(0, 70), st.booleans())
def test_interval_one_is_dense(frames: int, window: int, n_first: int, offset: int, expand: bool) -> None:
    pattern = Pattern(frames, window, n_first, 1, offset, expand)
    assert pattern.anchors == tuple(range(frames))
    assert pattern.is_dense and pattern.density == 1.0


@given(patterns())
def test_a_pattern_is_a_value(pattern: Pattern) -> None:
    same = Pattern(
        pattern.frames,
        pattern.window,
        pattern.n_first,
        pattern.keyframe_interval,
        pattern.offset,
        pattern.expand_window,
    )
    assert pattern.windows  # the tables that one of them holds already must not make them different
    assert same == pattern and hash(same) == hash(pattern) and len({same, pattern}) == 1
    with pytest.raises(AttributeError):
        pattern.offset = 0  # type: ignore[misc]


def test_plan_is_cached() -> None:
    assert wan(241, step=7) is wan(241, step=7)
    assert wan(241, step=8) is not wan(241, step=7)


def test_plan_passes_its_settings_on() -> None:
    pattern = plan(
        50, reference_frames=9, window=2, n_first=3, keyframe_interval=7, expand_window=False, step=17, rotate=True
    )
    assert pattern == Pattern(50, window=2, n_first=3, keyframe_interval=7, offset=3, expand_window=False)
    automatic = plan(50, reference_frames=20, window=2, n_first=3, sparsity_scale=0.5)
    interval = keyframe_interval(50, reference_frames=20, window=2, n_first=3, sparsity_scale=0.5)
    assert automatic == Pattern(50, window=2, n_first=3, keyframe_interval=interval)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("frames", value) for value in (0, -3, 2.0, True, "5", None)),
        *(("window", value) for value in (-1, 1.5)),
        *(("n_first", value) for value in (-1, None)),
        *(("keyframe_interval", value) for value in (0, -2, 2.0, False)),
        ("offset", -1),
    ],
)
def test_pattern_refuses(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be an integer of at least \d, got {value!r}"):
        Pattern(**{"frames": 5, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("frames", value) for value in (0, 2.0, True)),
        *(("window", value) for value in (-1, 3.0)),
        *(("n_first", value) for value in (-1, True)),
        *(("keyframe_interval", value) for value in (0, 2.5)),
        *(("reference_frames", value) for value in (0, -1, 21.0)),
        *(("sparsity_scale", value) for value in (-0.1, float("nan"), float("inf"), "1")),
        *(("step", value) for value in (-1, 1.0, None)),
    ],
)
def test_plan_refuses(name: str, value: Any) -> None:
    arguments = {"frames": 2, "reference_frames": 21, "window": 3, "n_first": 1, "step": 1}
    plan(**arguments)  # type: ignore[arg-type]  # equal numbers of the right type are cached already
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {value!r}"):
        plan(**{**arguments, name: value})


@pytest.mark.parametrize("name", ["frames", "window", "n_first"])
def test_plan_refuses_a_float_of_a_cached_value(name: str) -> None:
    arguments = {"frames": 9, "reference_frames": 21, "window": 3, "n_first": 1, "keyframe_interval": 2}
    assert plan(**arguments) is plan(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"{name} must be an integer of at least \d, got \d\.0"):
        plan(**{**arguments, name: float(arguments[name])})  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", [-1, 5])
def test_frames_outside_the_video(frame: int) -> None:
    pattern = Pattern(5)
    for ask in (
        pattern.window_bounds,
        pattern.attended,
        pattern.attended_count,
        lambda f: pattern.allows(f, 0),
        lambda f: pattern.allows(0, f),
    ):
        with pytest.raises(ValueError, match=rf"frame must be in 0\.\.4, got {frame}"):
            ask(frame)

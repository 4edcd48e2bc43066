"""A pattern as text and as a picture."""

import sys
from pathlib import Path

import pytest
from hypothesis import given

from lvsa_core import Pattern, plan, show
from lvsa_core.positions import Remap, TemporalAxis
from tests.support.strategies import examples, patterns


@examples(20)
@given(patterns(max_frames=30))
def test_letters_are_the_pattern(pattern: Pattern) -> None:
    lines = show.rows(pattern)
    assert len(lines) == pattern.frames
    for query, line in enumerate(lines):
        assert len(line) == pattern.frames
        low, high = pattern.window_bounds(query)
        for key, letter in enumerate(line):
            assert (letter != ".") == pattern.allows(query, key)
            assert (letter in "GX") == (key in pattern.anchors)
            assert (letter in "WX") == (low <= key <= high)


def test_text() -> None:
    assert show.text(Pattern(6, window=1, n_first=1, keyframe_interval=4, offset=2)).splitlines() == [
        "total_lat_frames=6 window=1 n_first=1 kfi=4 global_count=2 attended_per_frame=5/6 density=83.3% offset=2",
        *("XWXWW.", "XWXWW.", "XWXWW.", "GWXWW.", "G.GWWW", "G.GWWW"),
    ]


def test_summary_is_the_log_line() -> None:
    assert show.summary(plan(81, reference_frames=21)) == (
        "total_lat_frames=81 window=3 n_first=1 kfi=6 global_count=14 attended_per_frame=21/81 density=25.9%"
    )
    short = Pattern(20, window=3, n_first=1, keyframe_interval=6, expand_window=False)
    assert short.attended_count(0) < (most := max(len(short.attended(frame)) for frame in range(20)))
    assert f" attended_per_frame={most}/20 " in show.summary(short)


@pytest.mark.slow
def test_figure(tmp_path: Path) -> None:
    from matplotlib.image import imread

    one, several = tmp_path / "one.png", tmp_path / "several.png"
    drawn = show.figure(plan(41, reference_frames=21), one)
    assert len(drawn.axes) == 1
    steps = show.figure([plan(41, reference_frames=21, step=step) for step in range(3)], several)
    assert len(steps.axes) == 3
    small, large = imread(one), imread(several)
    assert small.shape[2] == 4 and large.shape[1] > 2 * small.shape[1]
    assert len({tuple(pixel) for pixel in small[::3, ::3].reshape(-1, 4).tolist()}) > 4  # not a blank page


def test_figure_colours_are_the_letters() -> None:
    pattern = plan(41, reference_frames=21)
    (axis,) = show.figure(pattern).axes
    (image,) = axis.get_images()
    colors = image.cmap(image.norm(image.get_array()))
    seen = {}
    for row, line in zip(colors, show.rows(pattern), strict=True):
        for color, letter in zip(row.tolist(), line, strict=True):
            assert seen.setdefault(letter, color) == color
    assert len({tuple(color) for color in seen.values()}) == len(seen) == 4


def test_figure_of_distances() -> None:
    """Red is farther than the training, and nothing is, with anchors at its distances."""
    axis = TemporalAxis.of(8, 10000.0)
    true, moved = (plan(81, reference_frames=21, remap=remap) for remap in (None, Remap(21, axis)))
    for pattern, farthest in ((true, 80), (moved, 19)):
        (drawn, _) = show.figure(pattern, trained=21).axes
        assert drawn.get_title().endswith("anchors at trained distances") == (pattern is moved)
        (image,) = drawn.get_images()
        shown = image.get_array()
        assert shown.max() == farthest and image.norm.vmax == 20
        assert [[not hidden for hidden in row] for row in shown.mask.tolist()] == [
            [letter != "." for letter in row] for row in show.rows(pattern)
        ]


def test_figure_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match="a figure needs matplotlib: pip install "):
        show.figure(plan(41, reference_frames=21))

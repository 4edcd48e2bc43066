"""Distances at which anchors are seen: within the training, monotone, the window's own, and what a boost is."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, plan, reference_attend
from lvsa_core.positions import Remap, TemporalAxis
from lvsa_core.reference import token_mask
from lvsa_core.riflex import SlowedFrequency
from tests.support.strategies import examples, patterns

AXIS = TemporalAxis.of(8, 10000.0)
REMAP = Remap(9, AXIS)
LAYOUT = TokenLayout(FrameGrid(30, 3), kv_before=2, kv_after=3, q_before=1, q_after=2)


def tensors(layout: TokenLayout, size: int = 16) -> list[torch.Tensor]:
    noise = torch.Generator().manual_seed(3)
    counts = (layout.q_tokens, layout.kv_tokens, layout.kv_tokens)
    return [torch.randn(1, count, 2, size, generator=noise, dtype=torch.float64) for count in counts]


@pytest.mark.parametrize("window", [2, 3, 4, 5])
@pytest.mark.parametrize("length", [21, 31, 33, 48])
def test_every_distance_is_one_of_the_training(length: int, window: int) -> None:
    """Of all pairs that are no window's, for all videos of up to eight times the training length."""
    remap = Remap(length, AXIS)
    for frames in range(length + 1, 8 * length + 1):
        group, shift = remap.grouping(frames, window)
        queries = torch.arange(frames)
        seen = (queries // group)[:, None] - (queries // group)[None] + shift  # of anchors before a frame
        apart = queries[:, None] - queries[None] > window
        assert seen[apart].max() <= length - 1 and seen[apart].min() >= 0
        assert (seen[1:] >= seen[:-1]).all() and (seen[:, :-1] >= seen[:, 1:]).all()  # monotone in the distance
        nearest = seen.diagonal(-window)
        assert ((nearest - window).abs() <= 1).all()  # where the window's own distances end


@examples(60)
@given(patterns(60), st.integers(2, 30))
def test_distances_of_a_pattern(pattern: Pattern, room: int) -> None:
    """The window's are true, those of other anchors have the sign of the true ones and are mirrored."""
    moved = replace(pattern, remap=Remap(pattern.window + room, AXIS))
    for query in range(0, pattern.frames, 7):
        low, high = moved.window_bounds(query)
        found = {key: moved.distance(query, key) for key in moved.attended(query)}
        assert all(distance == query - key for key, distance in found.items() if low <= key <= high or pattern.is_dense)
        assert all((distance >= 0) == (key < query) or not distance for key, distance in found.items())
        if moved.grouping is not None:
            assert max(map(abs, found.values())) <= max(moved.window + room - 1, query - low, high - query)


def test_a_video_within_the_training_keeps_its_positions() -> None:
    """A small budget makes it sparse: groups of one frame are no groups."""
    pattern = plan(20, reference_frames=21, sparsity_scale=0.5, remap=Remap(21, AXIS))
    assert not pattern.is_dense and pattern.grouping == (1, 0)
    assert all(pattern.distance(q, k) == q - k for q in range(20) for k in range(20))
    given_ = [x.float() for x in tensors(TokenLayout(FrameGrid(20, 3)))]
    layout = TokenLayout(FrameGrid(20, 3))
    expected = attend(*given_, replace(pattern, remap=None), layout)
    torch.testing.assert_close(attend(*given_, pattern, layout), expected)


@pytest.mark.parametrize("frames", [5, 9])
def test_dense_patterns_stay_as_they_are(frames: int) -> None:
    pattern = plan(frames, reference_frames=9, window=1)
    changed = replace(pattern, anchor_boost=2.0, remap=REMAP)
    layout = TokenLayout(FrameGrid(frames, 3), kv_after=2)
    assert pattern.is_dense and changed.plain
    assert torch.equal(attend(*tensors(layout), changed, layout), attend(*tensors(layout), pattern, layout))


def test_a_window_that_leaves_no_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="so the half window must be at most 3 latent frames, got 4"):
        Pattern(20, window=4, keyframe_interval=5, remap=Remap(5, AXIS))
    with pytest.raises(ValueError, match=r"anchor_boost must be a number from -100 to 100 \(0 is off\), got inf"):
        Pattern(20, anchor_boost=float("inf"))


def test_the_frequency_that_riflex_has_slowed() -> None:
    slowed = SlowedFrequency.of(8, 10000.0, length=21, scale=4)
    found = TemporalAxis.of(8, 10000.0, slowed).frequencies
    assert found[slowed.k] == slowed.frequency != AXIS.frequencies[slowed.k]
    assert [x for i, x in enumerate(found) if i != slowed.k] == [
        x for i, x in enumerate(AXIS.frequencies) if i != slowed.k
    ]


@pytest.mark.parametrize("remap", [None, REMAP])
@pytest.mark.parametrize("boost", [1.5, -3.0])
def test_a_boost_is_added_to_the_scores(boost: float, remap: Remap | None) -> None:
    """Against a softmax over the mask with the boost in it, written out; the text and the window have none."""
    pattern = plan(30, reference_frames=9, window=1, step=2, anchor_boost=boost)
    q, k, v = tensors(LAYOUT)
    mask = torch.where(token_mask(pattern, LAYOUT), 0.0, -torch.inf).double()
    for query in range(30):
        for anchor in pattern.anchors:
            rows, columns = slice(1 + 3 * query, 4 + 3 * query), slice(2 + 3 * anchor, 5 + 3 * anchor)
            mask[rows, columns] += boost
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.3 + mask
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
    torch.testing.assert_close(attend(q, k, v, pattern, LAYOUT, scale=0.3), expected, rtol=0, atol=1e-6)
    moved = replace(pattern, remap=remap)
    found, oracle = (f(q, k, v, moved, LAYOUT, scale=0.3) for f in (attend, reference_attend))
    torch.testing.assert_close(found, oracle, rtol=0, atol=1e-6)


@pytest.mark.parametrize("remap", [None, REMAP])
def test_a_boost_without_end_leaves_no_anchors(remap: Remap | None) -> None:
    """With anchors at their own positions also none within the windows, which are anchors there too."""
    layout = TokenLayout(FrameGrid(30, 3))
    q, k, v = tensors(layout)
    pattern = plan(30, reference_frames=9, window=1, remap=remap, anchor_boost=-100.0)
    windows = torch.zeros(90, 90, dtype=torch.bool)
    for query, (low, high) in enumerate(pattern.windows):
        windows[3 * query : 3 * query + 3, 3 * low : 3 * high + 3] = True
    if remap is None:
        for anchor in pattern.anchors:
            windows[:, 3 * anchor : 3 * anchor + 3] = False
    seen = windows.any(1)
    windows[~seen] = True
    expected = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), windows)
    found = attend(q, k, v, pattern, layout)
    torch.testing.assert_close(found[:, seen], expected.transpose(1, 2)[:, seen], rtol=0, atol=1e-6)
    assert seen.float().mean() > 0.9


def test_it_is_the_rotary_embedding_of_other_positions() -> None:
    """With unturned queries and keys turned to the groups' positions at once, instead of turned twice."""
    layout = TokenLayout(FrameGrid(30, 2))
    raw_q, raw_k, v = tensors(layout)
    pattern = plan(30, reference_frames=9, window=1, step=1, remap=REMAP)
    assert pattern.grouping is not None
    group, shift = pattern.grouping

    def turned(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        angles = positions.repeat_interleave(2)[:, None].double() * torch.tensor(AXIS.frequencies, dtype=torch.float64)
        pairs = torch.view_as_complex(x[..., :8].unflatten(-1, (4, 2)).contiguous())
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)[None, :, None]
        return torch.cat([torch.view_as_real(pairs).flatten(-2), x[..., 8:]], -1)

    time = torch.arange(30)
    q, k = turned(raw_q, time), turned(raw_k, time)
    scores = torch.full((1, 2, 60, 60), -torch.inf, dtype=torch.float64)
    for query in range(30):
        low, high = pattern.window_bounds(query)
        rows = slice(2 * query, 2 * query + 2)
        for key in pattern.attended(query):
            columns = slice(2 * key, 2 * key + 2)
            one, other = (q, k) if low <= key <= high else (None, None)
            if one is None or other is None:
                sign = shift if key < low else -shift
                one, other = turned(raw_q, time // group + sign), turned(raw_k, time // group)
            scores[:, :, rows, columns] = torch.einsum("bqhd,bkhd->bhqk", one[:, rows], other[:, columns]) / 4
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
    torch.testing.assert_close(attend(q, k, v, pattern, layout), expected, rtol=0, atol=1e-9)

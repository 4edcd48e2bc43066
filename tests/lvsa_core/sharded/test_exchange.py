"""The exchange brings every rank the keys that its rows attend to, and no others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsa_core import FrameGrid, Pattern, plan
from lvsa_core.sharded.exchange import Exchange, Shards, exchange
from tests.support.strategies import examples, patterns


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    pattern = draw(patterns(30))
    ranks = draw(st.integers(1, 6))
    before, after = draw(st.sampled_from([(0, 0), (0, 0), (0, 3), (7, 0), (5, 2)]))
    grid = FrameGrid(pattern.frames, draw(st.integers(1, 7)))
    least = -(before + grid.tokens + after) % ranks
    pad = least + ranks * draw(st.sampled_from([0, 0, 1, 5, grid.tokens]))
    return Exchange(pattern, Shards(grid, ranks, before, after, pad))


def needed(plan: Exchange, rank: int) -> set[int]:
    """Tokens of the sequence that the rank's rows attend to, by the pattern's definition."""
    shards, grid, pattern = plan.shards, plan.shards.grid, plan.pattern
    rows = range(rank * shards.rows, min((rank + 1) * shards.rows, shards.tokens))
    if not rows:
        return set()
    tokens = {*range(shards.before), *range(shards.before + grid.tokens, shards.tokens)}
    for row in rows:
        if not shards.before <= row < shards.before + grid.tokens:
            return set(range(shards.tokens))
        frame = (row - shards.before) // grid.patches
        for other in range(grid.frames):
            if pattern.allows(frame, other):
                first = shards.before + other * grid.patches
                tokens.update(range(first, first + grid.patches))
    return tokens


@examples(60)
@given(exchanges())
def test_every_rank_gets_what_it_needs_once(plan: Exchange) -> None:
    shards, grid = plan.shards, plan.shards.grid
    for rank in range(shards.ranks):
        layout = plan.layout(rank)
        assert layout.q_tokens == shards.held(rank)
        keys: list[int] = []
        for transfer in plan.transfers:
            if transfer.target == rank:
                assert transfer.target_row == len(keys) and transfer.rows > 0
                assert transfer.source_row >= 0 and transfer.source_row + transfer.rows <= shards.rows
                first = transfer.source * shards.rows + transfer.source_row
                keys += range(first, first + transfer.rows)
        others = [*range(shards.before), *range(shards.before + grid.tokens, shards.tokens)]
        frames = [shards.before + frame * grid.patches + i for frame in plan.frames(rank) for i in range(grid.patches)]
        assert keys == (others + frames if layout.q_tokens else []) and len(keys) == layout.kv_tokens
        assert set(keys) == needed(plan, rank)
        local = plan.local_rows(rank)
        assert all(row // shards.rows == rank for row in keys[:local])


@examples(30)
@given(exchanges())
def test_rows_received(plan: Exchange) -> None:
    rows = plan.shards.rows
    for rank in range(plan.shards.ranks):
        away = {token for token in needed(plan, rank) if token // rows != rank}
        assert plan.received_rows(rank) == len(away)


def test_a_quarter_of_what_ring_moves() -> None:
    """81 latent frames at 480p on 8 ranks, the mean of the steps; ring and all-gather move what is not local."""
    shards = Shards(FrameGrid(81, 1560), 8)
    moved = [
        exchange(plan(81, reference_frames=21, step=step), shards).received_rows(rank)
        for step in range(6)
        for rank in range(8)
    ]
    assert 0.2 < sum(moved) / len(moved) / (shards.tokens * 7 / 8) < 0.3


def test_made_once() -> None:
    pattern, shards = Pattern(30, keyframe_interval=5), Shards(FrameGrid(30, 4), 4)
    assert exchange(pattern, shards) is exchange(Pattern(30, keyframe_interval=5), Shards(FrameGrid(30, 4), 4))
    assert exchange(pattern, shards).layout(1, 3) is exchange(pattern, shards).layout(1, 3)


def test_a_sequence_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match=r"^30 tokens cannot be divided among 4 ranks$"):
        Shards(FrameGrid(5, 6), 4)

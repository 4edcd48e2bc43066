"""The frame grid and the tokens around it."""

from typing import Any

import pytest

from lvsa_core import FrameGrid, TokenLayout

GRID = FrameGrid(4, 5)


def test_grid() -> None:
    assert (GRID.frames, GRID.patches, GRID.tokens) == (4, 5, 20)
    assert len({FrameGrid(4, 5), GRID, FrameGrid(5, 4)}) == 2


@pytest.mark.parametrize(
    ("layout", "video_rows", "real_rows", "q_tokens", "kv_tokens"),
    [
        (TokenLayout(GRID), 20, 20, 20, 20),
        (TokenLayout(GRID, kv_before=1, kv_after=2, q_before=3, q_after=4), 20, 20, 27, 23),
        (TokenLayout(GRID, pad=6), 26, 20, 26, 26),
        (TokenLayout(GRID, pad=6, q_offset=13), 13, 7, 13, 26),
        (TokenLayout(GRID, pad=6, q_offset=13, q_rows=5, q_after=1), 5, 5, 6, 26),
        (TokenLayout(GRID, pad=6, q_offset=22, q_rows=3), 3, 0, 3, 26),
        (TokenLayout(GRID, q_offset=20), 0, 0, 0, 20),
        (TokenLayout(GRID, q_rows=0, q_before=2), 0, 0, 2, 20),
    ],
)
def test_layout_adds_up(layout: TokenLayout, video_rows: int, real_rows: int, q_tokens: int, kv_tokens: int) -> None:
    assert (layout.video_rows, layout.real_rows) == (video_rows, real_rows)
    assert (layout.q_tokens, layout.kv_tokens) == (q_tokens, kv_tokens)


@pytest.mark.parametrize("arguments", [(0, 5), (4, 0), (-1, 5), (4, 5.0), (True, 5), (4, None)])
def test_grid_refuses(arguments: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(frames|patches) must be an integer of at least 1, got "):
        FrameGrid(*arguments)


@pytest.mark.parametrize("name", ["kv_before", "kv_after", "q_before", "q_after", "pad", "q_offset", "q_rows"])
@pytest.mark.parametrize("value", [-1, 1.0, True])
def test_layout_refuses_what_is_no_count(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be an integer of at least 0, got {value!r}$"):
        TokenLayout(GRID, **{name: value})


@pytest.mark.parametrize(("offset", "rows", "end"), [(0, 24, 24), (20, 4, 24), (24, None, 24)])
def test_layout_refuses_rows_past_the_end(offset: int, rows: int | None, end: int) -> None:
    TokenLayout(GRID, pad=4, q_offset=offset, q_rows=rows)
    with pytest.raises(ValueError, match=rf"query rows {offset} to {end} reach past the 23 rows"):
        TokenLayout(GRID, pad=3, q_offset=offset, q_rows=rows)

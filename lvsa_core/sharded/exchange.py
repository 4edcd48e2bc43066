"""Which keys each rank needs when ranks divide the sequence, and the transfers that bring them there.

Ring attention and all-gather move every key to every rank. The pattern needs less: the anchors, and the frames of the
windows that reach over the border of a rank's rows (its halo).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import compress
from typing import NamedTuple

from lvsa_core.grid import FrameGrid, TokenLayout, check_int
from lvsa_core.pattern import Pattern


class Transfer(NamedTuple):
    """Successive key rows that one rank has and another one needs (or the same: a copy)."""

    source: int
    target: int
    source_row: int  # in the source's part
    target_row: int  # in the keys that the target gathers
    rows: int


@dataclass(frozen=True)
class Shards:
    """A sequence ``[before | video | after | pad]`` of tokens that ranks hold in equal parts, in order.

    Args:
        grid: the video. before, after: other tokens of the sequence (control, sound); every query sees them, and they
            see everything. Text that every rank holds is not among them.
        ranks: parts.
        pad: rows at the end that are no tokens; nobody attends to them.

    Raises:
        ValueError: if the sequence cannot be divided.
    """

    grid: FrameGrid
    ranks: int
    before: int = 0
    after: int = 0
    pad: int = 0

    def __post_init__(self) -> None:
        check_int("ranks", self.ranks, 1)
        check_int("pad", self.pad, 0)
        if (self.tokens + self.pad) % self.ranks:
            raise ValueError(f"{self.tokens + self.pad} tokens cannot be divided among {self.ranks} ranks")

    @property
    def tokens(self) -> int:
        """Tokens of the whole sequence."""
        return self.before + self.grid.tokens + self.after

    @property
    def rows(self) -> int:
        """Rows of one rank."""
        return (self.tokens + self.pad) // self.ranks

    def held(self, rank: int) -> int:
        """How many of a rank's rows are tokens; they come first."""
        return self.overlap(rank, 0, self.tokens)[1]

    def overlap(self, rank: int, start: int, end: int) -> tuple[int, int]:
        """The tokens of ``[start, end)`` that a rank holds, as (first, how many)."""
        first = max(start, rank * self.rows)
        return first, max(0, min(end, (rank + 1) * self.rows) - first)


@dataclass(frozen=True)
class Exchange:
    """The key rows that every rank gathers, made once for all layers and steps that share pattern and shards."""

    pattern: Pattern
    shards: Shards

    def layout(self, rank: int, text: int = 0) -> TokenLayout:
        """The rank's attention call: its rows as queries; as keys ``text`` tokens, other tokens, anchors, the rest."""
        return _layout(self, rank, text)

    def frames(self, rank: int) -> tuple[int, ...]:
        """Frames that a rank needs, in the order of its keys: its own anchors, the others', then the rest by time."""
        return self._frames[rank]

    @cached_property
    def _frames(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self._needed(rank) for rank in range(self.shards.ranks))

    def _needed(self, rank: int) -> tuple[int, ...]:
        pattern, shards = self.pattern, self.shards
        patches, video = shards.grid.patches, shards.before
        first, rows = shards.overlap(rank, video, video + shards.grid.tokens)
        if not shards.held(rank):
            return ()
        anchors = range(pattern.frames) if pattern.is_dense else pattern.anchors
        if rows < shards.held(rank):  # other tokens see everything
            window = range(pattern.frames)
        else:
            queries = range((first - video) // patches, -(-(first - video + rows) // patches))
            bounds = [pattern.windows[frame] for frame in queries]
            window = range(min(low for low, _ in bounds), max(high for _, high in bounds) + 1)
        own, every = self._own_anchors(rank), set(anchors)
        return (*own, *(x for x in anchors if x not in own), *(x for x in window if x not in every))

    def local_rows(self, rank: int) -> int:
        """How many of the rank's first key rows it holds itself, so that they need not be waited for."""
        shards = self.shards
        return 0 if shards.before or shards.after else len(self._own_anchors(rank)) * shards.grid.patches

    def _own_anchors(self, rank: int) -> list[int]:
        """Anchors that a rank holds whole."""
        shards, patches, video = self.shards, self.shards.grid.patches, self.shards.before
        anchors = range(self.pattern.frames) if self.pattern.is_dense else self.pattern.anchors
        ends = [(video + frame * patches, video + (frame + 1) * patches) for frame in anchors]
        whole = [shards.overlap(rank, start, end)[1] == patches for start, end in ends]
        return list(compress(anchors, whole))

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """All transfers between all ranks, in an order that is the same on each."""
        return tuple(transfer for rank in range(self.shards.ranks) for transfer in self._to(rank))

    def _to(self, rank: int) -> Iterator[Transfer]:
        shards, patches, end = self.shards, self.shards.grid.patches, self.shards.before + self.shards.grid.tokens
        pieces = [(0, shards.before), (end, shards.after)] if shards.held(rank) else []
        pieces += [(shards.before + frame * patches, patches) for frame in self.frames(rank)]
        row = 0
        for start, count in _joined(pieces):
            while count:
                source, source_row = divmod(start, shards.rows)
                rows = min(count, shards.rows - source_row)
                yield Transfer(source, rank, source_row, row, rows)
                start, count, row = start + rows, count - rows, row + rows

    def received_rows(self, rank: int) -> int:
        """Key rows that a rank gets from others; each is one of K and one of V."""
        return sum(x.rows for x in self.transfers if x.target == rank != x.source)


@lru_cache(maxsize=256)
def _layout(plan: Exchange, rank: int, text: int) -> TokenLayout:
    shards, video, end = plan.shards, plan.shards.before, plan.shards.before + plan.shards.grid.tokens
    first, rows = shards.overlap(rank, video, end)
    return TokenLayout(
        shards.grid,
        kv_before=text + (shards.before + shards.after if shards.held(rank) else 0),
        q_before=shards.overlap(rank, 0, video)[1],
        q_after=shards.overlap(rank, end, shards.tokens)[1],
        q_offset=first - video if rows else 0,
        q_rows=rows,
        kv_frames=plan.frames(rank),
    )


def _joined(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, count) of successive pieces, those that follow on each other as one."""
    start, count = 0, 0
    for next_start, next_count in pieces:
        if next_start == start + count:
            count += next_count
            continue
        if count:
            yield start, count
        start, count = next_start, next_count
    if count:
        yield start, count


@lru_cache(maxsize=256)
def exchange(pattern: Pattern, shards: Shards) -> Exchange:
    """The exchange for a pattern on a sequence that ranks divide; the same object for the same arguments."""
    return Exchange(pattern, shards)

"""A sequence that ranks divide: by Ulysses they exchange rows for heads, then anchors and windows over the ring."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lvsa_core.attention import attend
from lvsa_core.diffusers.groups import SequenceGroups, heads_from_rows, joined, padded, rows_from_heads
from lvsa_core.grid import TokenLayout
from lvsa_core.pattern import Pattern
from lvsa_core.sharded.attention import sharded_attend
from lvsa_core.sharded.exchange import Shards


class OwnHeads(NamedTuple):
    """The heads of a sequence that are this rank's.

    Args:
        attention: :func:`lvsa_core.attend`, or :func:`lvsa_core.sharded.attention.sharded_attend` where a ring divides
            the keys too; it still takes ``scale``, ``kernel`` and ``head_groups``.
        as_rows: makes of its output all heads of this rank's part of the sequence.
    """

    attention: Callable[..., Tensor]
    as_rows: Callable[[Tensor], Tensor]


def take_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layout: TokenLayout,
    groups: SequenceGroups,
    *,
    ahead: int = 0,
    behind: int = 0,
) -> OwnHeads:
    """Exchange this rank's rows of a sequence for heads of all rows; called by all ranks that divide it.

    Args:
        q, k, v: [B, S, H or Hkv, D]: this rank's part of ``[ahead | video | behind]``, between the text, which every
            rank has.
        pattern: which frame attends to which. layout: of the whole sequence. groups: of the ranks that divide it.
        ahead, behind: of the tokens before and after the video, those that are divided among the ranks with it.

    Returns:
        Heads of all rows: [B, text and sequence, H / ulysses, D], or the ring's part of the sequence.

    Raises:
        ValueError: if the tokens are not those, or Ulysses cannot divide the heads; before anything is sent.

    Source: Ulysses, arXiv 2309.14509; both together, arXiv 2405.07719.
    """
    length, ulysses = ahead + layout.grid.tokens + behind, dist.get_world_size(groups.ulysses)
    rows = groups.rows(length)
    for name, x, tokens in (("q", q, layout.q_tokens), ("k", k, layout.kv_tokens)):
        if x.shape[1] != tokens - length + rows:
            raise ValueError(f"a rank should have {tokens - length + rows} tokens of {name}, but it has {x.shape[1]}")
    if q.shape[2] % ulysses:
        raise ValueError(
            f"ulysses_degree={ulysses} does not divide the {q.shape[2]} heads: choose one that does, and ring_degree"
        )
    if k.shape[2] % ulysses:  # fewer heads of keys than ranks
        k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], 2) for x in (k, v))
    q_first, q_rows, q_last = _pieces(q, layout.q_before - ahead, rows, groups)
    k_first, k_rows, k_last = _pieces(k, layout.kv_before - ahead, rows, groups)
    v_first, v_rows, v_last = _pieces(v, layout.kv_before - ahead, rows, groups)
    keys, values = (k_first, k_rows, k_last), (v_first, v_rows, v_last)
    nothing, lengths = q[:, :0], (q_first.shape[1], q_rows.shape[1], q_last.shape[1])

    def of_all_heads(first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
        first, last = (
            joined(x, 2, groups.ulysses) if x.shape[1] else x.new_empty(nothing.shape) for x in (first, last)
        )
        return torch.cat([first, rows_from_heads(middle, groups.ulysses), last], 1)

    if dist.get_world_size(groups.ring) > 1:
        text = tuple(torch.cat([first, last], 1) for first, _, last in (keys, values))
        query = torch.cat([q_rows, q_first, q_last], 1)
        shards = Shards(layout.grid, dist.get_world_size(groups.ring), ahead, behind, pad=groups.count * rows - length)
        shared = (text[0], text[1]) if text[0].shape[1] else None

        def from_ring(out: Tensor) -> Tensor:
            middle, first, last = torch.split(out, [lengths[1], lengths[0], lengths[2]], 1)
            return of_all_heads(first, middle, last)

        attention = partial(sharded_attend, query, k_rows, v_rows, pattern, shards, groups.ring, text=shared)
        return OwnHeads(attention, from_ring)

    def from_whole(out: Tensor) -> Tensor:
        first, middle, last = torch.split(out, [lengths[0], length, lengths[2]], 1)
        return of_all_heads(first, padded(middle, 1, lengths[1]), last)

    query, key, value = (
        torch.cat([first, x[:, :length], last], 1) for first, x, last in ((q_first, q_rows, q_last), keys, values)
    )
    return OwnHeads(partial(attend, query, key, value, pattern, layout), from_whole)


def _pieces(x: Tensor, before: int, rows: int, groups: SequenceGroups) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's heads of the text before, of the rows of all ranks of its Ulysses group, and of the text after."""
    each = x.shape[2] // dist.get_world_size(groups.ulysses)
    own = x.narrow(2, dist.get_rank(groups.ulysses) * each, each)
    return own[:, :before], heads_from_rows(x[:, before : before + rows], groups.ulysses), own[:, before + rows :]

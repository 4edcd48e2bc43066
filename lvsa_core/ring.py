"""``ring_attend``: LVSA's attention of one layer where the sequence is sharded over ranks, as ring attention has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lvsa_core.attention import run
from lvsa_core.checks import check_shard
from lvsa_core.exchange import Exchange, Shards, exchange
from lvsa_core.kernels import KernelUnavailable, select
from lvsa_core.kernels.merge import merge_
from lvsa_core.kernels.prefix_window import Arriving, PrefixWindow
from lvsa_core.pattern import Pattern

#: Its name from PyTorch 2.13 on, else the older one.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


@dataclass
class Traffic:
    """What this process has sent to other ranks, in bytes."""

    keys: int = 0
    text: int = 0


traffic = Traffic()


@torch.no_grad()
def ring_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    shards: Shards,
    group: dist.ProcessGroup,
    *,
    text: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    kernel: str = "auto",
    overlap: bool | None = None,
) -> Tensor:
    """:func:`lvsa_core.attend` of a sequence whose rows are divided among ranks; called by all of them.

    Every rank gets the key rows that its queries attend to, and no others, by transfers between pairs of ranks. Queries
    of text, which see everything, do not move keys: each rank attends to its own rows, and the outputs are joined.

    Args:
        q: [B, rows + text queries, H, D]: the rank's rows of the sequence, then the text's, the same on every rank.
            The outputs of rows that are padding are zero.
        k, v: [B, rows, Hkv, D], the rank's rows of the sequence.
        pattern: which frame attends to which.
        shards: the sequence, and how many ranks hold it.
        group: the ranks, in the order of the sequence. Its time-out bounds the wait for a rank that does not answer.
        text: keys and values [B, n, Hkv, D] that every query sees and every rank has.
        scale: multiplies the scores; None: 1/sqrt(D).
        kernel: as for :func:`lvsa_core.attend`.
        overlap: compute on the keys that are there while the others arrive; None: where that should pay.

    Returns:
        As ``q``.

    Raises:
        ValueError: if shapes or the number of ranks do not fit; before anything is sent.
        KernelUnavailable: if no kernel runs here, or it gives no log-sum-exp, which the text's queries need.
        RuntimeError: from the group, if another rank fails or does not answer in time.
    """
    rank = dist.get_rank(group)
    if dist.get_world_size(group) != shards.ranks:
        raise ValueError(f"the group has {dist.get_world_size(group)} ranks, the sequence {shards.ranks}")
    scale = check_shard(q, k, v, text, pattern, shards, scale)
    chosen = select(kernel, q.device, q.dtype, q.shape[3]).kernel
    plan, text_rows = exchange(pattern, shards), 0 if text is None else text[0].shape[1]
    others = q[:, shards.rows :]
    q, k, v = (x[:, : shards.held(rank)] for x in (q, k, v))

    keys, values = (_gathered(x, plan, rank, text_rows) for x in (k, v))
    if text is not None:
        keys[:text_rows], values[:text_rows] = (x.transpose(0, 1) for x in text)
    pending = _start(plan, rank, group, ((k, keys[text_rows:]), (v, values[text_rows:])))

    if others.shape[1]:
        others = _text_queries(others, k, v, text, group, chosen, scale)

    ready = text_rows + plan.local_rows(rank)
    if overlap is None:
        overlap = _pays(q, k, plan, rank)
    arriving = None
    if overlap and ready and q.shape[1] and isinstance(chosen, PrefixWindow):
        arriving = Arriving(ready, pending)
    else:
        pending()
    layout = plan.layout(rank, text_rows)
    out = torch.empty_like(q)
    if q.shape[1]:
        out = run(chosen, q, keys.transpose(0, 1), values.transpose(0, 1), pattern, layout, scale, arriving)
    padding = out.new_zeros(out.shape[0], shards.rows - out.shape[1], *out.shape[2:])
    return torch.cat([out, padding, others], 1) if padding.shape[1] or others.shape[1] else out


def _gathered(x: Tensor, plan: Exchange, rank: int, text_rows: int) -> Tensor:
    """Room for the keys or values of a rank's call, [rows, B, Hkv, D]: each transfer is one piece of memory."""
    rows = sum(transfer.rows for transfer in plan.transfers if transfer.target == rank)
    return x.new_empty(text_rows + rows, x.shape[0], *x.shape[2:])


def _start(
    plan: Exchange, rank: int, group: dist.ProcessGroup, pairs: tuple[tuple[Tensor, Tensor], ...]
) -> Callable[[], None]:
    """Send what others need of ``source`` and receive into ``target`` [rows, B, Hkv, D], for each pair of both.

    Returns:
        What waits until everything has arrived; on a GPU only the current stream waits.
    """
    operations: list[dist.P2POp] = []
    for which, (source, target) in enumerate(pairs):
        source = source.transpose(0, 1).contiguous()
        for index, transfer in enumerate(plan.transfers):
            if rank not in (transfer.source, transfer.target):
                continue
            tag = len(pairs) * index + which
            there = source[transfer.source_row : transfer.source_row + transfer.rows]
            here = target[transfer.target_row : transfer.target_row + transfer.rows]
            if transfer.source == transfer.target:
                here.copy_(there)
            elif transfer.source == rank:
                traffic.keys += there.numel() * there.itemsize
                operations.append(_operation(dist.isend, there, transfer.target, group, tag))
            else:
                operations.append(_operation(dist.irecv, here, transfer.source, group, tag))
    works = dist.batch_isend_irecv(operations) if operations else []

    def wait() -> None:
        for work in works:
            work.wait()
        operations.clear()  # until here they keep the tensors

    return wait


def _operation(
    function: Callable[..., Any], tensor: Tensor, peer: int, group: dist.ProcessGroup, tag: int
) -> dist.P2POp:
    return dist.P2POp(function, tensor, dist.get_global_rank(group, peer), group, tag)


def _text_queries(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text: tuple[Tensor, Tensor] | None,
    group: dist.ProcessGroup,
    kernel: Any,
    scale: float,
) -> Tensor:
    """Queries [B, S, H, D] that see all keys of all ranks: the ranks' outputs, joined in the same order on each.

    A rank without keys, which never is the first, has a log-sum-exp of minus infinity.
    """
    if not hasattr(kernel, "attention"):
        raise KernelUnavailable(
            f"the kernel {kernel.name} gives no log-sum-exp, which text queries need under ring attention: use Ulysses"
        )
    q = q.contiguous()
    if k.shape[1]:
        own = kernel.attention(q, k, v, scale)
    else:
        wide = torch.promote_types(q.dtype, torch.float32)
        own = torch.zeros_like(q), q.new_full((len(q), q.shape[2], q.shape[1]), -torch.inf, dtype=wide)
    parts = _all_gathered(own, group)
    if text is not None:
        parts.append(kernel.attention(q, *text, scale))
    (out, lse), *rest = parts
    for other, other_lse in rest:
        merge_(out, lse, other, other_lse)
        lse = torch.logaddexp(lse, other_lse)
    return out


def _all_gathered(own: tuple[Tensor, Tensor], group: dist.ProcessGroup) -> list[tuple[Tensor, Tensor]]:
    """Every rank's output and log-sum-exp."""
    gathered = []
    for x in own:
        parts = x.new_empty(dist.get_world_size(group), *x.shape)
        # As bytes: not every backend knows every floating-point type.
        mine = x.contiguous().view(-1).view(torch.uint8)
        _all_gather(parts.view(-1).view(torch.uint8), mine, group=group)
        traffic.text += x.numel() * x.itemsize * (len(parts) - 1)
        gathered.append(parts)
    return list(zip(*gathered, strict=True))


def _pays(q: Tensor, k: Tensor, plan: Exchange, rank: int) -> bool:
    """Whether arriving keys outweigh one more merge of the output.

    The merge reads and writes the output three times in the device's memory, which is at least ten times faster than
    the way between devices.
    """
    arriving = 2 * plan.received_rows(rank) * k.shape[2]
    return q.device.type != "cpu" and arriving >= plan.shards.rows * q.shape[2] / 3

"""``sharded_attend``: LVSA's attention of one layer where each rank holds its own rows, as ring attention has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lvsa_core.attention import compute
from lvsa_core.checks import check_rank_call
from lvsa_core.kernels import KernelUnavailable, select
from lvsa_core.kernels.merge import merge_
from lvsa_core.kernels.prefix_window import Arriving, PrefixWindow
from lvsa_core.memory import HeadGroups
from lvsa_core.pattern import Pattern
from lvsa_core.sharded.exchange import Shards, exchange
from lvsa_core.sharded.transfers import all_gather, receive_buffer, start_transfers, traffic

#: Nominal rates of an H100, as in docs/scaling.md, for :func:`_pays`, which needs their order of magnitude.
FLOPS = 6.5e14  # a second, of attention in half precision
MEMORY = 3.3e12  # bytes a second, of the device's memory
LINK = 5e10  # bytes a second and direction: a network adapter of 400 Gb/s, PCIe 5


@torch.no_grad()
def sharded_attend(
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
    head_groups: HeadGroups | None = None,
    overlap: bool | None = None,
) -> Tensor:
    """:func:`lvsa_core.attend` of a sequence whose rows are divided among ranks; called by all of them.

    Every rank gets the key rows that its queries attend to, and no others, by transfers between pairs of ranks. Queries
    of text, which see everything, do not move keys: each rank attends to its own rows, and the outputs are joined after
    the video's attention, beside which they travel.

    Args:
        q: [B, rows + text queries, H, D]: the rank's rows of the sequence, then the text's, the same on every rank.
            The outputs of rows that are padding are zero.
        k, v: [B, rows, Hkv, D], the rank's rows of the sequence.
        pattern: which frame attends to which.
        shards: the sequence, and how many ranks hold it.
        group: the ranks, in the order of the sequence. Its time-out bounds the wait for a rank that does not answer. If
            a rank holds only padding, NCCL wants some collective of the group to have run before.
        text: keys and values [B, n, Hkv, D] that every query sees and every rank has.
        scale: multiplies the scores; None: 1/sqrt(D).
        kernel, head_groups: as for :func:`lvsa_core.attend`.
        overlap: compute on the keys that are there while the others arrive; None: where that should pay.

    Returns:
        As ``q``.

    Raises:
        ValueError: if shapes or the number of ranks do not fit; before anything is sent.
        KernelUnavailable: if no kernel runs here, or it gives no log-sum-exp, which the text's queries need; likewise.
        RuntimeError: from gloo, if another rank fails or does not answer in time. Not from NCCL: there only the stream
            waits, and NCCL's watchdog ends the process after the time-out.
    """
    rank = dist.get_rank(group)
    if dist.get_world_size(group) != shards.ranks:
        raise ValueError(f"the group has {dist.get_world_size(group)} ranks, the sequence {shards.ranks}")
    scale = check_rank_call(q, k, v, text, pattern, shards, scale)
    chosen = select(kernel, q.device, q.dtype, q.shape[3], pattern.plain).kernel
    plan, text_rows = exchange(pattern, shards), 0 if text is None else text[0].shape[1]
    others = q[:, shards.rows :]
    if others.shape[1] and not hasattr(chosen, "attention"):
        raise KernelUnavailable(
            f"the kernel {chosen.name} gives no log-sum-exp, which text queries need under ring attention: use Ulysses"
        )
    q, k, v = (x[:, : shards.held(rank)] for x in (q, k, v))

    keys, values = (receive_buffer(x, plan, rank, text_rows) for x in (k, v))
    if text is not None:
        keys[:text_rows], values[:text_rows] = (x.transpose(0, 1) for x in text)
    pending = start_transfers(plan, rank, group, ((k, keys[text_rows:]), (v, values[text_rows:])))

    # After the keys, and not waited for before the video is done: NCCL takes a group's operations one after the other.
    join = _start_text(others, k, v, text, group, chosen, scale) if others.shape[1] else None

    ready = text_rows + plan.local_rows(rank)
    if overlap is None:
        arriving_rows, heads = plan.received_rows(rank), (q.shape[2], k.shape[2])
        overlap = q.device.type != "cpu" and _pays(q.shape[1], ready, arriving_rows, heads, q.itemsize)
    arriving = None
    if overlap and ready and q.shape[1] and pattern.grouping is None and isinstance(chosen, PrefixWindow):
        arriving = Arriving(ready, pending)
    else:
        pending()
    layout = plan.layout(rank, text_rows)
    out = torch.empty_like(q)
    if q.shape[1]:
        received = keys.transpose(0, 1), values.transpose(0, 1)
        out = compute(chosen, q, *received, pattern, layout, scale, head_groups, arriving)
    if join is not None:
        others = join()
    padding = out.new_zeros(out.shape[0], shards.rows - out.shape[1], *out.shape[2:])
    return torch.cat([out, padding, others], 1) if padding.shape[1] or others.shape[1] else out


def _start_text(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text: tuple[Tensor, Tensor] | None,
    group: dist.ProcessGroup,
    kernel: Any,
    scale: float,
) -> Callable[[], Tensor]:
    """Attend to this rank's keys with queries [B, S, H, D] that see those of all ranks, and send the output to all.

    A rank without keys, which never is the first, has a log-sum-exp of minus infinity.

    Returns:
        What waits for the ranks' outputs and joins them, in the same order on each.
    """
    q = q.contiguous()
    if k.shape[1]:
        own = kernel.attention(q, k, v, scale)
    else:
        wide = torch.promote_types(q.dtype, torch.float32)
        own = torch.zeros_like(q), q.new_full((len(q), q.shape[2], q.shape[1]), -torch.inf, dtype=wide)
    arrived = _all_gathered(own, group)
    last: list[tuple[Tensor, Tensor]] = [] if text is None else [kernel.attention(q, *text, scale)]

    def join() -> Tensor:
        (out, lse), *rest = arrived() + last
        for other, other_lse in rest:
            merge_(out, lse, other, other_lse)
            lse = torch.logaddexp(lse, other_lse)
        return out

    return join


def _all_gathered(own: tuple[Tensor, Tensor], group: dist.ProcessGroup) -> Callable[[], list[tuple[Tensor, Tensor]]]:
    """Send an output and its log-sum-exp to all ranks, in one operation.

    Returns:
        What waits for every rank's, in their order; on a GPU only the current stream waits.
    """
    # As bytes: not every backend knows every floating-point type.
    mine = torch.cat([x.reshape(-1).view(torch.uint8) for x in own])
    every = mine.new_empty(len(mine) * dist.get_world_size(group))
    work = all_gather(every, mine, group=group, async_op=True)
    traffic.text += len(every) - len(mine)

    def wait() -> list[tuple[Tensor, Tensor]]:
        work.wait()
        pairs = (torch.split(part, [x.nbytes for x in own]) for part in torch.split(every, len(mine)))
        # Copies, as a part may begin where no number of its type can.
        return [(_as(out.clone(), own[0]), _as(lse.clone(), own[1])) for out, lse in pairs]

    return wait


def _as(data: Tensor, like: Tensor) -> Tensor:
    """Bytes as a tensor of the dtype and shape of another."""
    return data.view(like.dtype).view(like.shape)


def _pays(rows: int, ready: int, arriving: int, heads: tuple[int, int], itemsize: int) -> bool:
    """Whether a rank should attend to the keys that are there while the others arrive.

    That hides the shorter of two times: the attention to the ready keys, 4 FLOP for each row, key and element of a row,
    and the transfer of the arriving K and V. Its price is one more output, written, then read with the other one and
    joined: 4 times an output's bytes in the device's memory. It pays if it hides twice its price.

    With two-byte numbers and equal heads that takes some 800 ready keys, and a sixteenth as many arriving rows as the
    rank has. The rate is a slow link's: on NVLink a wrong yes costs at most the price, which is about 1 % of attention
    to 40,000 keys, while over a network a wrong no would cost many times that.

    Args:
        rows: queries. ready, arriving: keys.
        heads: of queries and keys. itemsize: bytes of a number.
    """
    q_width, kv_width = heads  # times the head size, as everything below
    compute = 4 * rows * ready * q_width / FLOPS
    transfer = 2 * arriving * kv_width * itemsize / LINK
    price = 4 * rows * q_width * itemsize / MEMORY
    return min(compute, transfer) >= 2 * price

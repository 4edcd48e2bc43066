"""Key rows on their way between ranks, and how many bytes of them there were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor

from lvsa_core.sharded.exchange import Exchange

#: Its name from PyTorch 2.13 on, else the older one.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass
class Traffic:
    """What this process has sent to other ranks, in bytes."""

    keys: int = 0
    text: int = 0


traffic = Traffic()


def receive_buffer(x: Tensor, plan: Exchange, rank: int, text_rows: int) -> Tensor:
    """Room for the keys or values of a rank's call, [rows, B, Hkv, D]: each transfer is one piece of memory."""
    rows = sum(transfer.rows for transfer in plan.transfers if transfer.target == rank)
    return x.new_empty(text_rows + rows, x.shape[0], *x.shape[2:])


def start_transfers(
    plan: Exchange, rank: int, group: dist.ProcessGroup, pairs: tuple[tuple[Tensor, Tensor], ...]
) -> Callable[[], None]:
    """Send what others need of ``source`` and receive into ``target`` [rows, B, Hkv, D], for each pair of both.

    Returns:
        What waits until everything has arrived, and may be called again; on a GPU only the current stream waits.
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
        while works:
            works.pop().wait()
        operations.clear()  # until here they keep the tensors

    return wait


def _operation(
    function: Callable[..., Any], tensor: Tensor, peer: int, group: dist.ProcessGroup, tag: int
) -> dist.P2POp:
    return dist.P2POp(function, tensor, dist.get_global_rank(group, peer), group, tag)

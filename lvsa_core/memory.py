"""The memory that attention takes beside its inputs and output, and the groups of heads that keep it in a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

#: Part of the free memory that attention may take: the rest is for what lies between its buffers.
SHARE = 0.9
#: After memory has run out, there are so many times more groups.
MORE = 4
GB = 1e9


class CallSize(NamedTuple):
    """Sizes of an attention call.

    Args:
        entries: of the batch. rows, keys: tokens of queries and keys. heads, kv_heads: of queries and keys.
        head_size: numbers of a head. itemsize: bytes of a number.
        moved: whether anchors are seen at other positions, for which the queries of an entry are copied.
    """

    entries: int
    rows: int
    keys: int
    heads: int
    kv_heads: int
    head_size: int
    itemsize: int
    moved: bool = False

    @classmethod
    def of(cls, q: Tensor, k: Tensor, moved: bool = False) -> CallSize:
        """That of queries [B, Sq, H, D] and keys [B, Sk, Hkv, D]."""
        entries, rows, heads, head_size = q.shape
        return cls(entries, rows, k.shape[1], heads, k.shape[2], head_size, q.itemsize, moved)

    def extra(self, groups: int = 1) -> int:
        """Bytes that the call takes at most beside inputs and output, if it works in so many groups of heads.

        They are the copies of K and V, the output of the windows of one entry of the batch, and two log-sum-exps; with
        several groups those of one of them. What a kernel returns for a group, if it cannot write it in place, has the
        room of the windows.
        """
        kv_heads = self._each(groups)
        heads = kv_heads * self.heads // self.kv_heads
        row, kv_row = (count * self.head_size * self.itemsize for count in (heads, kv_heads))
        copies, outputs = 2 * self.entries * self.keys * kv_row, self.rows * row * (self.entries if groups > 1 else 1)
        log_sum_exps = (self.entries + 1) * self.rows * heads * 4
        return copies + outputs + log_sum_exps + self.moved * self.rows * row

    def groups_within(self, allowed: float) -> int:
        """The fewest groups of heads that take no more than these bytes; one head of keys each if none does."""
        counts = (count for count in range(1, self.kv_heads) if self.extra(count) <= allowed)
        return next(counts, self.kv_heads)

    def more(self, groups: int) -> int:
        """More groups than these, for a call that has run out of memory; as many if there are no more."""
        return min(MORE * groups, self.kv_heads)

    def slices(self, groups: int) -> Iterator[tuple[slice, slice]]:
        """The heads of queries and those of keys of each group."""
        each, shared = self._each(groups), self.heads // self.kv_heads
        for first in range(0, self.kv_heads, each):
            end = min(first + each, self.kv_heads)
            yield slice(first * shared, end * shared), slice(first, end)

    def _each(self, groups: int) -> int:
        """Heads of keys in a group."""
        return -(-self.kv_heads // groups)


class HeadGroups:
    """In how many groups of heads the layers of a request work: as few as its budget allows.

    Heads do not know of each other, so the result does not depend on it.

    Args:
        budget: GB (1e9 bytes) that attention may take beside inputs and output; None: nine tenths of what the device
            has free at the first call of a size, without limit on a CPU.
        tell: called with a sentence each time that more groups are chosen.
    """

    def __init__(self, budget: float | None = None, tell: Callable[[str], None] | None = None) -> None:
        self.budget, self.tell = budget, tell
        self._counts: dict[CallSize, int] = {}

    def count(self, size: CallSize, device: torch.device) -> int:
        """Groups of the calls of a size, decided at the first of them."""
        if size not in self._counts:
            allowed = free_bytes(device) if self.budget is None else self.budget * GB
            self._choose(size, size.groups_within(allowed), f"{allowed / GB:.3g} GB may be used")
        return self._counts[size]

    def more(self, size: CallSize) -> int:
        """The groups of calls of a size from now on, as memory has run out; as many as before if each is a head."""
        before = self._counts[size]
        self._choose(size, size.more(before), f"with {before} memory ran out")
        return self._counts[size]

    def _choose(self, size: CallSize, count: int, why: str) -> None:
        if count > self._counts.get(size, 1) and self.tell is not None:
            takes, at_once = size.extra(count) / GB, size.extra() / GB
            self.tell(
                f"attention works in {count} groups of heads and takes {takes:.3g} GB beside its inputs and output, "
                f"instead of {at_once:.3g} GB with all heads at once: {why}"
            )
        self._counts[size] = count


def free_bytes(device: torch.device) -> float:
    """Bytes that a call may take on a device; without limit on a CPU."""
    if device.type != "cuda":
        return float("inf")
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch gives it out again
    return SHARE * (free + kept)

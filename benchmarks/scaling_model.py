"""Bytes, time and memory of one layer on many GPUs, on paper: what ``scaling.py`` prints, and its assumptions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lvsa_core import FrameGrid, Pattern, Placement, plan
from lvsa_core.sharded.exchange import Exchange, Shards, exchange
from lvsa_vllm_omni.measure.cost import cross_flop, linear_flop
from lvsa_vllm_omni.shape import Shape

ITEMSIZE = 2  # bfloat16
STEPS = 50  # of a request
SAMPLED = 8  # of them


@dataclass(frozen=True)
class Cluster:
    """Rates of a GPU, in bytes a second and direction, and in FLOP a second.

    Args:
        nvlink: within a machine. network: between machines. machine: GPUs of one.
        attention: rate of the attention's kernel. linear: of the linear layers.
    """

    nvlink: float = 450e9
    network: float = 50e9
    machine: int = 8
    attention: float = 650e12
    linear: float = 790e12


@dataclass
class Bytes:
    """What a GPU sends and receives for one layer, [within its machine, between machines]."""

    sent: list[int]
    received: list[int]

    def add(self, other: Bytes) -> None:
        """Add another GPU's row of transfers to this one."""
        self.sent = [a + b for a, b in zip(self.sent, other.sent, strict=True)]
        self.received = [a + b for a, b in zip(self.received, other.received, strict=True)]

    def seconds(self, cluster: Cluster) -> float:
        """Time of this GPU's busier link and direction."""
        most = (max(pair) for pair in zip(self.sent, self.received, strict=True))
        return max(n / rate for n, rate in zip(most, (cluster.nvlink, cluster.network), strict=True))


@dataclass(frozen=True)
class Case:
    """One video of a model on so many GPUs."""

    shape: Shape
    grid: FrameGrid
    reference_frames: int
    placement: Placement
    cluster: Cluster

    @property
    def gpus(self) -> int:
        """GPUs of the case."""
        return self.placement.ulysses * self.placement.ring

    @property
    def shards(self) -> Shards:
        """The parts of the sequence that Ulysses groups hold."""
        return Shards(self.grid, self.placement.ring)

    @property
    def token(self) -> tuple[int, int]:
        """Bytes of one token in Q and in K, of all heads."""
        return ITEMSIZE * self.shape.heads * self.shape.head_size, ITEMSIZE * self.shape.kv_heads * self.shape.head_size

    @property
    def gathered_by_all(self) -> float:
        """Bytes of K and V that a GPU receives by all-gather or ring."""
        return 2 * self.token[1] * (self.grid.tokens - self.grid.tokens / self.gpus)

    def patterns(self) -> list[Pattern]:
        """The patterns of some steps, evenly over a request."""
        steps = range(0, STEPS, math.ceil(STEPS / SAMPLED))
        return [plan(self.grid.frames, reference_frames=self.reference_frames, step=step) for step in steps]


def placements(shape: Shape, gpus: int) -> list[Placement]:
    """All that the heads allow: Ulysses groups of neighbours, and a ring of the groups."""
    fitting = [u for u in range(1, gpus + 1) if gpus % u == shape.heads % u == shape.kv_heads % u == 0]
    return [Placement(ulysses=u, ring=gpus // u) for u in fitting]


def title(placement: Placement) -> str:
    """Its degrees, as in the tables."""
    return f"{placement.ulysses} x {placement.ring}"


def all_to_all(case: Case) -> list[Bytes]:
    """What every GPU sends: Q, K and V to the others of its group by heads, and the output back."""
    u, machine = case.placement.ulysses, case.cluster.machine
    query, key = case.token
    pair = case.grid.tokens // case.gpus * (2 * query + 2 * key) // u
    found = []
    for gpu in range(case.gpus):
        first = gpu - gpu % u
        near = sum(peer // machine == gpu // machine for peer in range(first, first + u)) - 1
        links = [pair * near, pair * (u - 1 - near)]
        found.append(Bytes(links, [*links]))
    return found


def halo(case: Case, pattern: Pattern) -> list[Bytes]:
    """What every GPU sends: K and V of the rows that the exchange moves, of the GPU's heads."""
    u, machine = case.placement.ulysses, case.cluster.machine
    row = 2 * case.token[1] // u
    found = [Bytes([0, 0], [0, 0]) for _ in range(case.gpus)]
    for transfer in exchange(pattern, case.shards).transfers:
        if transfer.source == transfer.target:
            continue
        for place in range(u):
            source, target = transfer.source * u + place, transfer.target * u + place
            link = int(source // machine != target // machine)
            found[source].sent[link] += transfer.rows * row
            found[target].received[link] += transfer.rows * row
    return found


def gathered_rows(plan: Exchange, rank: int) -> int:
    """Key rows of a group's call: its own that it needs, and those that arrive."""
    return sum(transfer.rows for transfer in plan.transfers if transfer.target == rank)


def attention_seconds(case: Case, pattern: Pattern) -> list[tuple[float, float]]:
    """Seconds of every group's attention, and of the part that needs no keys of others."""
    patches, shards = case.grid.patches, case.shards
    pair = 4 * case.shape.heads // case.placement.ulysses * case.shape.head_size / case.cluster.attention
    found = []
    for rank in range(shards.ranks):
        start, end = rank * shards.rows, (rank + 1) * shards.rows
        pairs = sum(
            shards.overlap(rank, frame * patches, (frame + 1) * patches)[1] * pattern.attended_count(frame) * patches
            for frame in range(start // patches, -(-end // patches))
        )
        local = exchange(pattern, shards).local_rows(rank) * shards.rows if shards.ranks > 1 else 0
        found.append((pairs * pair, local * pair))
    return found


def measure(case: Case) -> dict[str, Any]:
    """What the model says about one layer: seconds, bytes of the busiest GPU and of all, memory."""
    shuffled, steps = all_to_all(case), []
    busiest = max(one.seconds(case.cluster) for one in shuffled)
    rest = (linear_flop(case.shape, case.grid) + cross_flop(case.shape, case.grid)) / case.gpus / case.cluster.linear
    most, received, gathered = [], [], []
    for pattern in case.patterns():
        moved = halo(case, pattern)
        computed = attention_seconds(case, pattern)
        arrived = max(one.seconds(case.cluster) for one in moved)  # everyone's keys: the next layer starts together
        slowest = max(max(arrived, local) + whole - local for whole, local in computed)
        steps.append((busiest + slowest, max(whole for whole, _ in computed)))
        for one, other in zip(moved, shuffled, strict=True):
            one.add(other)
        most.append(max(max(sum(one.sent), sum(one.received)) for one in moved))
        received.append(statistics.mean(sum(one.received) for one in moved))
        gathered.append(max(gathered_rows(exchange(pattern, case.shards), rank) for rank in range(case.placement.ring)))
    attention, computing = (statistics.mean(values) for values in zip(*steps, strict=True))
    return {
        "placement": title(case.placement),
        "seconds": rest + attention,
        "waiting": attention - computing,
        "computing": rest + computing,
        "received": statistics.mean(received),
        "most": max(most),
        **memory(case, max(gathered)),
    }


def memory(case: Case, gathered: int) -> dict[str, float]:
    """Bytes of a GPU during one layer's attention, and of K and V alone among them.

    Args:
        gathered: key rows of a group's call at most.
    """
    rows, u = case.grid.tokens // case.gpus, case.placement.ulysses
    query, key = case.token
    hidden = ITEMSIZE * case.shape.hidden
    keys = 2 * key * rows * (2 if u > 1 else 1)  # as projected, and by heads
    keys += 2 * key * gathered // u  # in the order of the call
    queries = query * rows * (2 if u > 1 else 1)
    return {"keys": keys, "held": keys + queries + 2 * query * rows + 2 * hidden * rows}


def weights(shape: Shape) -> int:
    """Bytes of the blocks' matrices; linear_flop counts two for each weight and token, cross-attention has two more."""
    one = FrameGrid(1, 1)
    text = 2 * shape.hidden * shape.heads * shape.head_size if shape.cross_tokens else 0
    return ITEMSIZE * shape.blocks * (linear_flop(shape, one) // (2 * (1 + shape.text_tokens)) + text)


def dividing(frames: int, patches: int, gpus: int) -> int:
    """The next number of latent frames whose tokens the GPUs can share."""
    return next(more for more in range(frames, frames + gpus) if more * patches % gpus == 0)


def longest(case_of: Callable[[int], Case], memory_of_gpu: float, limit: int = 2**16) -> int:
    """Most latent frames that fit in a GPU's memory, to within 1 in 256; 0 if not even one GPU's share of few does."""

    def fits(frames: int) -> bool:
        case = case_of(frames)
        pattern = plan(case.grid.frames, reference_frames=case.reference_frames)
        rows = max(gathered_rows(exchange(pattern, case.shards), rank) for rank in range(case.placement.ring))
        return weights(case.shape) + memory(case, rows)["held"] <= memory_of_gpu

    low, high = 0, 32
    while high < limit and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 256):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low

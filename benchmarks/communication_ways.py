"""The ways to compute one layer's attention where every rank holds a part of the sequence; for communication.py."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from models import MODELS
from torch import Tensor

from lvsa_core import FrameGrid, TokenLayout, attend, plan
from lvsa_core.kernels import select
from lvsa_core.kernels.merge import merge_
from lvsa_core.sharded.attention import sharded_attend
from lvsa_core.sharded.exchange import Exchange, Shards, exchange
from lvsa_core.sharded.transfers import all_gather, receive_buffer, start_transfers, traffic
from lvsa_vllm_omni.measure.dense import pytorch
from lvsa_vllm_omni.measure.timing import seconds

WAN = MODELS["wan-1.3b"]
REFERENCE_FRAMES, HEAD_SIZE = WAN.horizon, WAN.shape.head_size
WAYS = ("lvsa", "lvsa, overlap", "all-gather", "ring")


class Layer:
    """One rank's part of a layer's attention, and the ways to compute it."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.rank, self.ranks, self.device = dist.get_rank(), dist.get_world_size(), device
        assert dist.group.WORLD is not None
        self.group = dist.group.WORLD
        self.pattern = plan(arguments.frames, reference_frames=REFERENCE_FRAMES, step=arguments.step)
        self.shards = Shards(FrameGrid(arguments.frames, arguments.patches), self.ranks)
        self.dtype = getattr(torch, arguments.dtype)
        noise = torch.Generator().manual_seed(self.rank)
        shape = (1, self.shards.rows, arguments.heads, HEAD_SIZE)
        self.q, self.k, self.v = (torch.randn(shape, generator=noise).to(device, self.dtype) for _ in "qkv")
        self.sent = 0

    @property
    def plan(self) -> Exchange:
        return exchange(self.pattern, self.shards)

    def lvsa(self, overlap: bool) -> Tensor:
        before = traffic.keys
        out = sharded_attend(self.q, self.k, self.v, self.pattern, self.shards, self.group, overlap=overlap)
        self.sent = traffic.keys - before
        return out

    def lvsa_transfers(self) -> None:
        pairs = [(x, receive_buffer(x, self.plan, self.rank, 0)) for x in (self.k, self.v)]
        start_transfers(self.plan, self.rank, self.group, tuple(pairs))()

    def all_gathered(self) -> list[Tensor]:
        """All keys and values, [1, tokens, H, D]."""
        whole = []
        for x in (self.k, self.v):
            every = x.new_empty(1, self.shards.tokens, *x.shape[2:])
            # As bytes: not every backend knows every floating-point type.
            all_gather(every.view(-1).view(torch.uint8), x.view(-1).view(torch.uint8))
            whole.append(every)
        self.sent = sum(every.nbytes - x.nbytes for every, x in zip(whole, (self.k, self.v), strict=True))
        return whole

    def all_gather(self) -> Tensor:
        k, v = self.all_gathered()
        layout = TokenLayout(self.shards.grid, q_offset=self.rank * self.shards.rows, q_rows=self.shards.rows)
        return attend(self.q, k, v, self.pattern, layout)

    def rotate(self, visit: Callable[[Tensor, Tensor], None]) -> None:
        """Pass K and V around the ring; ``visit`` those of every rank while the next ones arrive."""
        self.sent, held = 0, (self.k, self.v)
        for turn in range(self.ranks):
            arriving, works = (torch.empty_like(self.k), torch.empty_like(self.v)), []
            if turn < self.ranks - 1:
                operations = []
                for tag, (x, room) in enumerate(zip(held, arriving, strict=True)):
                    operations.append(dist.P2POp(dist.isend, x, (self.rank + 1) % self.ranks, self.group, tag))
                    operations.append(dist.P2POp(dist.irecv, room, (self.rank - 1) % self.ranks, self.group, tag))
                    self.sent += x.nbytes
                works = dist.batch_isend_irecv(operations)
            visit(*held)
            for work in works:
                work.wait()
            held = arriving

    def ring(self) -> Tensor:
        kernel: Any = select("auto", self.device, self.dtype, HEAD_SIZE).kernel
        parts: list[tuple[Tensor, Tensor]] = []

        def visit(k: Tensor, v: Tensor) -> None:
            out, lse = kernel.attention(self.q, k, v, HEAD_SIZE**-0.5)
            if parts:
                whole, whole_lse = parts.pop()
                merge_(whole, whole_lse, out, lse)
                out, lse = whole, torch.logaddexp(whole_lse, lse)
            parts.append((out, lse))

        self.rotate(visit)
        return parts[0][0]

    def dense(self) -> Tensor:
        k, v = self.all_gathered()
        return pytorch(self.q, k, v, HEAD_SIZE**-0.5)

    def sides(self) -> dict[str, Callable[[], Any]]:
        """The ways, and the transfers of each alone."""
        return {
            "lvsa": lambda: self.lvsa(False),
            "lvsa, overlap": lambda: self.lvsa(True),
            "all-gather": self.all_gather,
            "ring": self.ring,
            "lvsa transfers": self.lvsa_transfers,
            "all-gather transfers": self.all_gathered,
            "ring transfers": lambda: self.rotate(lambda k, v: None),
        }

    @torch.no_grad()
    def measure(self, repeats: int) -> dict[str, Any]:
        """This rank's times, the bytes that it sends, and how far outputs that must be equal are apart."""
        sides, sent, outputs = self.sides(), {}, {}
        for name in WAYS:  # also a warm-up
            outputs[name], sent[name] = sides[name](), self.sent
        apart = {
            "lvsa and all-gather": (outputs["lvsa"] - outputs["all-gather"]).abs().max().item(),
            "overlap and all-gather": (outputs["lvsa, overlap"] - outputs["all-gather"]).abs().max().item(),
            "ring and dense": (outputs["ring"] - self.dense()).abs().max().item(),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        written: dict[str, list[int]] = {name: [] for name in sides}
        for _ in range(repeats):
            for name, side in sides.items():
                dist.barrier()
                before = bytes_written()
                times[name].append(seconds(side, self.device))
                written[name].append(bytes_written() - before)
        middle = {name: statistics.median(written[name]) for name in WAYS}
        return {"sent": sent, "written": middle, "apart": apart, "times": times}


def bytes_written() -> int:
    """What this process has written so far, to files and sockets; 0 where the system does not tell."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        return 0
    return next(int(line.split()[1]) for line in counts.read_text().splitlines() if line.startswith("wchar"))

"""The ranks of diffusers' context parallelism: their groups, and how they divide a sequence and its heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lvsa_core.sharded.transfers import all_gather


@dataclass(frozen=True)
class SequenceGroups:
    """The process groups that divide a sequence, each rank a part of equally many rows, the last ones padded.

    Args:
        world: all of them, in the order of their parts. ulysses: those that exchange heads, which are successive in
            ``world``. ring: those with the same heads.
    """

    world: dist.ProcessGroup
    ulysses: dist.ProcessGroup
    ring: dist.ProcessGroup

    @classmethod
    def of(cls, transformer: Any) -> SequenceGroups | None:
        """The ranks that ``enable_parallelism`` has given a transformer, None if it runs on one."""
        config = getattr(getattr(transformer, "_parallel_config", None), "context_parallel_config", None)
        if config is None:
            return None
        meshes = config._flattened_mesh, config._ulysses_mesh, config._ring_mesh
        if None in meshes:
            raise ValueError(
                "context parallelism has no ranks yet: turn it on by transformer.enable_parallelism(config=...)"
            )
        return cls(*(mesh.get_group() for mesh in meshes))

    @property
    def count(self) -> int:
        """How many they are."""
        return dist.get_world_size(self.world)

    @property
    def members(self) -> list[int]:
        """Their numbers among all processes, in order."""
        return dist.get_process_group_ranks(self.world)

    @property
    def rank(self) -> int:
        """Which of them this process is, from 0."""
        return dist.get_rank(self.world)

    @property
    def degrees(self) -> tuple[int, int]:
        """Sizes of the groups of Ulysses and of the ring."""
        return dist.get_world_size(self.ulysses), dist.get_world_size(self.ring)

    def rows(self, length: int) -> int:
        """Rows of one rank's part of ``length`` rows."""
        return -(-length // self.count)

    def part(self, x: Tensor, dim: int) -> Tensor:
        """This rank's part of ``x`` along ``dim``, padded with zeros."""
        length, rows = x.shape[dim], self.rows(x.shape[dim])
        start = min(self.rank * rows, length)
        return padded(x.narrow(dim, start, min(rows, length - start)), dim, rows)

    def whole(self, x: Tensor, dim: int, length: int) -> Tensor:
        """Join every rank's part along ``dim`` to the ``length`` rows without the padding."""
        return joined(x, dim, self.world).narrow(dim, 0, length)


def padded(x: Tensor, dim: int, length: int) -> Tensor:
    """``x`` with zeros at the end of ``dim``, up to ``length``."""
    missing = length - x.shape[dim]
    if not missing:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat([x, x.new_zeros(shape)], dim)


def joined(x: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """The tensors of all ranks of a group, one behind the other along ``dim``."""
    if dist.get_world_size(group) == 1:
        return x
    parts = x.new_empty(dist.get_world_size(group), *x.shape)
    # As bytes: not every backend knows every floating-point type.
    all_gather(parts.view(-1).view(torch.uint8), x.contiguous().view(-1).view(torch.uint8), group=group)
    return torch.cat(list(parts), dim)


def heads_from_rows(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Ulysses' exchange: of [B, rows, H, D] on each of U ranks to [B, U * rows, H / U, D]."""
    size = dist.get_world_size(group)
    if size == 1:
        return x
    pieces = torch.stack(x.chunk(size, 2)).transpose(1, 2)  # [U, rows, B, H / U, D]
    return _exchanged(pieces, group).flatten(0, 1).transpose(0, 1)


def rows_from_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The way back: of [B, U * rows, H / U, D] to [B, rows, H, D]."""
    size = dist.get_world_size(group)
    if size == 1:
        return x
    pieces = torch.stack(x.chunk(size, 1)).transpose(1, 2)  # [U, rows, B, H / U, D]
    return _exchanged(pieces, group).permute(2, 1, 0, 3, 4).flatten(2, 3)


def _exchanged(pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Piece i of every rank, on rank i."""
    sent = pieces.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received.view(-1).view(torch.uint8), sent.view(-1).view(torch.uint8), group=group)
    return received

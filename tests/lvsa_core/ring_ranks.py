"""Processes that hold a sequence together over gloo, for the tests of ``ring_attend``."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lvsa_core import Pattern, TokenLayout, reference_attend
from lvsa_core.exchange import Shards
from lvsa_core.ring import ring_attend, traffic


@dataclass(frozen=True)
class Case:
    """One call of all ranks, and how it is made."""

    pattern: Pattern
    shards: Shards
    text: int = 0  # tokens that every rank has: keys that every query sees
    text_queries: bool = False
    batch: int = 1
    heads: tuple[int, int] = (2, 2)  # of queries and keys
    dtype: torch.dtype = torch.float32
    kernel: str = "auto"
    overlap: bool | None = None
    fused: bool = False  # q, k and v are slices of one tensor


def whole_call(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, TokenLayout]:
    """What one process would compute: text keys first, or text behind the video in queries and keys."""
    shards, (heads, kv_heads) = case.shards, case.heads
    noise = torch.Generator().manual_seed(5)

    def normal(tokens: int, count: int) -> torch.Tensor:
        return torch.randn(case.batch, tokens, count, 16, generator=noise).to(case.dtype)

    behind, ahead = (case.text, 0) if case.text_queries else (0, case.text)
    layout = TokenLayout(
        shards.grid,
        kv_before=ahead + shards.before,
        kv_after=shards.after + behind,
        q_before=shards.before,
        q_after=shards.after + behind,
    )
    return normal(layout.q_tokens, heads) * 2, *(normal(layout.kv_tokens, kv_heads) for _ in "kv"), layout


def run_case(case: Case) -> dict[str, Any]:
    """This rank's part of the call beside the whole one's: the largest difference, and what it sent."""
    rank, shards = dist.get_rank(), case.shards
    q, k, v, layout = whole_call(case)
    wide = (x.double() for x in (q, k, v))
    expected = reference_attend(*wide, case.pattern, layout)
    held = slice(rank * shards.rows, (rank + 1) * shards.rows)
    first = 0 if case.text_queries else case.text
    sequence = slice(first, first + shards.tokens)
    text = [x[:, shards.tokens :] if case.text_queries else x[:, :first] for x in (k, v)]

    def padded(x: torch.Tensor, value: float = 0) -> torch.Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 0, 0, shards.pad), value=value)

    # What stands in the padding must not matter.
    mine = [padded(x, 9)[:, held] for x in (q[:, : shards.tokens], k[:, sequence], v[:, sequence])]
    if case.text_queries:
        mine[0] = torch.cat([mine[0], q[:, shards.tokens :]], 1)
    if case.fused:
        mine = [torch.stack([x, x], 3)[:, :, :, 0] for x in mine]
    traffic.keys = traffic.text = 0
    out = ring_attend(
        *mine, case.pattern, shards, dist.group.WORLD, text=tuple(text) if case.text else None,
        kernel=case.kernel, overlap=case.overlap,
    )  # fmt: skip
    rows = torch.cat([padded(expected[:, : shards.tokens])[:, held], expected[:, shards.tokens :]], 1)
    assert out.shape == mine[0].shape and out.dtype == case.dtype
    return {
        "difference": (out.double() - rows).abs().max().item(),
        "keys": traffic.keys,
        "text": traffic.text,
        "text output": out[:, shards.rows :].clone(),
    }


def run_cases(cases: list[Case]) -> list[dict[str, Any]]:
    """All of them, in this rank; a sentence instead of a result where one fails."""
    results = []
    for case in cases:
        try:
            results.append(run_case(case))
        except Exception:
            results.append({"error": traceback.format_exc()})
    return results


def in_ranks(ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Any]:
    """What ``function(*args)`` gives in each of so many processes that are joined over gloo; an exception as its text.

    Args:
        timeout: of the group's operations, in seconds.
    """
    context = get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(
                target=_rank, args=(rank, ranks, str(Path(folder) / "store"), queue, timeout, function, args)
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        found: dict[int, Any] = {}
        while len(found) < ranks:
            try:
                rank, result = queue.get(timeout=5)
                found[rank] = result
            except Exception:
                for rank, process in enumerate(processes):
                    if not process.is_alive() and rank not in found and queue.empty():
                        found[rank] = "died"
        for process in processes:
            process.join()
    return [found[rank] for rank in range(ranks)]


def _rank(
    rank: int, ranks: int, store: str, queue: Any, timeout: float, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout)
    )
    try:
        result = function(*args)
    except Exception:
        result = traceback.format_exc()
    queue.put((rank, result))
    queue.close()
    queue.join_thread()
    if not isinstance(result, str):
        dist.barrier()
    dist.destroy_process_group()


def moved(case: Case) -> Case:
    """The same one denoising step later."""
    pattern = case.pattern
    return replace(case, pattern=replace(pattern, offset=(pattern.offset + 1) % pattern.keyframe_interval))

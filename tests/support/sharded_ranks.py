"""Processes that hold a sequence together over gloo or NCCL, and their calls, for the tests of ``sharded_attend``."""

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

from lvsa_core import FrameGrid, Pattern, TokenLayout, plan, reference_attend
from lvsa_core.positions import Remap, TemporalAxis
from lvsa_core.sharded.attention import sharded_attend
from lvsa_core.sharded.exchange import Shards
from lvsa_core.sharded.transfers import traffic

REMAP = Remap(9, TemporalAxis.of(8, 10000.0))


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


def cases(ranks: int) -> dict[str, Case]:
    """Calls of 1 to 4 ranks. 24 frames of 6 tokens are whole frames on every rank; of other numbers some are shared."""
    pattern = plan(24, reference_frames=9, window=1)
    whole, cut = (Shards(FrameGrid(frames, 6), ranks) for frames in (24, {1: 21, 2: 21, 3: 20, 4: 22}[ranks]))
    cut_pattern = plan(cut.grid.frames, reference_frames=9, window=1)
    base = Case(pattern, whole)
    behind = Case(pattern, whole, text=5, text_queries=True)
    few, tiny = FrameGrid(13, 5), FrameGrid(3, 2)
    return {
        "frames": base,
        "next step": moved(base),
        "rows within frames": Case(cut_pattern, cut),
        "overlap": replace(base, overlap=True),
        "overlap, text behind": Case(cut_pattern, cut, text=5, text_queries=True, overlap=True),
        "text behind": behind,
        "text behind, batch": Case(cut_pattern, cut, text=3, text_queries=True, batch=2),
        "text keys": replace(base, text=5, heads=(4, 2)),
        "text keys, overlap": replace(base, text=5, heads=(4, 1), overlap=True),
        "batch": replace(base, batch=3, overlap=True),
        "fused": replace(base, fused=True),
        "control": Case(pattern, Shards(whole.grid, ranks, before=whole.grid.tokens), text=3, heads=(4, 2)),
        "sound": Case(pattern, Shards(whole.grid, ranks, after=4 * ranks), text=3),
        "action within a rank": Case(pattern, Shards(whole.grid, ranks, before=ranks, after=ranks)),
        "dense pattern": replace(base, pattern=Pattern(24, window=1, keyframe_interval=1), text=2, text_queries=True),
        "own window only": replace(base, pattern=Pattern(24, window=0, n_first=0, keyframe_interval=12, offset=3)),
        "bfloat16": replace(base, dtype=torch.bfloat16, text=4, text_queries=True, overlap=True),
        "float16": replace(base, dtype=torch.float16),
        "float64": replace(base, dtype=torch.float64, text=4, text_queries=True),
        "padding": replace(base, shards=Shards(FrameGrid(24, 7), ranks, pad=-24 * 7 % ranks + ranks), text=3),
        "padding, text behind": replace(
            behind,
            pattern=plan(13, reference_frames=5, window=1),
            shards=Shards(few, ranks, pad=-few.tokens % ranks + 5 * ranks),
            overlap=True,
        ),
        "padding after sound": replace(base, shards=Shards(whole.grid, ranks, after=5, pad=-149 % ranks), text=3),
        "ranks of padding alone": replace(
            behind, pattern=Pattern(3), shards=Shards(tiny, ranks, pad=6 * (ranks - 1)), overlap=True
        ),
        **{
            f"{name}, {what}": replace(case, pattern=replace(case.pattern, **changes))
            for name, case in (
                ("rows within frames", Case(cut_pattern, cut, overlap=True)),
                ("text behind", behind),
                ("control", Case(pattern, Shards(whole.grid, ranks, before=whole.grid.tokens), text=3, heads=(4, 2))),
            )
            for what, changes in {
                "boosted": {"anchor_boost": 1.5},
                "remapped": {"anchor_boost": 1.5, "remap": REMAP},
            }.items()
        },
        "concatenated": replace(base, kernel="sdpa-concatenated", text=4, overlap=True),
    }  # fmt: skip


def moved(case: Case) -> Case:
    """The same one denoising step later."""
    pattern = case.pattern
    return replace(case, pattern=replace(pattern, offset=(pattern.offset + 1) % pattern.keyframe_interval))


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
    """This rank's part of the call, on the group's device, beside the whole one's: the difference, and what it sent."""
    rank, shards = dist.get_rank(), case.shards
    device = torch.device("cuda", rank) if dist.get_backend() == "nccl" else torch.device("cpu")
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
    mine, text = ([x.to(device) for x in tensors] for tensors in (mine, text))
    if case.fused:
        mine = [torch.stack([x, x], 3)[:, :, :, 0] for x in mine]
    traffic.keys = traffic.text = 0
    out = sharded_attend(
        *mine, case.pattern, shards, dist.group.WORLD, text=tuple(text) if case.text else None,
        kernel=case.kernel, overlap=case.overlap,
    )  # fmt: skip
    rows = torch.cat([padded(expected[:, : shards.tokens])[:, held], expected[:, shards.tokens :]], 1)
    assert out.shape == mine[0].shape and out.dtype == case.dtype and out.device == device
    out = out.cpu()
    return {
        "difference": (out.double() - rows).abs().max().item(),
        "keys": traffic.keys,
        "text": traffic.text,
        # No tensor: a process may end before its tensors are read from the queue.
        "text output": out[:, shards.rows :].tolist(),
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


def assert_whole(results: list[dict[str, Any]], allowed: float) -> None:
    """All ranks' parts of a call are the whole one's, and the text, which each has, is the same number for number."""
    for result in results:
        assert "error" not in result, result["error"]
        assert result["difference"] <= allowed
        assert result["text output"] == results[0]["text output"]


def in_ranks(
    ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 60, backend: str = "gloo"
) -> list[Any]:
    """What ``function(*args)`` gives in each of so many processes that are joined in a group; an exception as its text.

    Args:
        timeout: of the group's operations, in seconds.
        backend: ``gloo``, or ``nccl``, with a GPU for each rank.
    """
    context = get_context("spawn" if backend == "nccl" else "forkserver")
    if backend != "nccl":  # what takes longer than most cases is imported once
        context.set_forkserver_preload(["torch.distributed", "pytest", __name__])
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(
                target=_rank,
                args=(rank, ranks, str(Path(folder) / "store"), queue, timeout, backend, function, args),
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
    rank: int,
    ranks: int,
    store: str,
    queue: Any,
    timeout: float,
    backend: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend, init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout)
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

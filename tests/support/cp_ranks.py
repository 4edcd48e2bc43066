"""Pipelines in processes that share a video by diffusers' context parallelism, over gloo."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.support.videos import KNOBS, SHORT, generate, load, transformers_of
from tests.support.way import watch

#: What takes long to import; the processes are copies of one that has it.
PRELOAD = [
    "torch.distributed",
    "diffusers.hooks.context_parallel",
    *(
        f"diffusers.pipelines.{name}"
        for name in (
            "wan.pipeline_wan",
            "wan.pipeline_wan_vace",
            "hunyuan_video1_5.pipeline_hunyuan_video1_5",
            "cosmos.pipeline_cosmos3_omni",
            "cogvideo.pipeline_cogvideox",
        )
    ),
]


@dataclass(frozen=True)
class Case:
    """One call of a pipeline by all ranks.

    Args:
        kind: of checkpoint. ulysses, ring: degrees. groups: of so many ranks in all, which each make the video.
        options: of the pipeline's call. knobs: of ``enable_lvsa``.
        first: whether LVSA is enabled before the ranks are.
    """

    kind: str
    ulysses: int = 1
    ring: int = 1
    groups: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    knobs: Mapping[str, Any] = field(default_factory=dict)
    first: bool = False

    @property
    def name(self) -> str:
        """For people."""
        chosen = ", ".join(f"{key}={value}" for key, value in {**self.options, **self.knobs}.items())
        return f"{self.kind} ulysses {self.ulysses} ring {self.ring} {chosen}".strip()


def parallelize(pipe: Any, case: Case) -> None:
    """As a user does it: with a plan of no splits for the families that diffusers has none for."""
    from diffusers import ContextParallelConfig
    from torch.distributed.device_mesh import init_device_mesh

    mesh = None
    if case.groups > 1:
        shape, names = (case.groups, case.ring, case.ulysses), ("data", "ring", "ulysses")
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    planned = case.kind.startswith("wan") and case.kind != "wan-vace"
    for transformer in transformers_of(pipe):
        config = ContextParallelConfig(ulysses_degree=case.ulysses, ring_degree=case.ring, mesh=mesh)
        transformer.enable_parallelism(config=config, cp_plan=None if planned else {})


def make(case: Case, folder: Path) -> dict[str, Any]:
    """The latents, what LVSA says of them, the pattern of each step, the bytes of keys sent by `sharded_attend`, and by
    which functions of the product calls come to the kernel."""
    from lvsa_core.diffusers import enable_lvsa
    from lvsa_core.sharded import attention as sharded
    from lvsa_core.sharded.transfers import traffic

    pipe, knobs = load(case.kind, folder), {**KNOBS, **case.knobs}
    if not case.first:
        parallelize(pipe, case)
    lvsa = enable_lvsa(pipe, **knobs)
    if case.first:
        parallelize(pipe, case)
    patterns: dict[int, Any] = {}
    note = lvsa._generation.ran_sparse

    def noted(pattern: Any, kernel: str) -> None:
        patterns[lvsa._generation.step] = pattern
        note(pattern, kernel)

    lvsa._generation.ran_sparse = noted  # type: ignore[method-assign]
    traffic.keys = 0
    with pytest.MonkeyPatch.context() as patch:
        ways = watch(patch, sharded, watch(patch))
        latents = generate(case.kind, pipe, **case.options)
    result = {"latents": latents, "patterns": patterns, "report": lvsa.report(), "sent": traffic.keys}
    return {**result, "ways": {tuple(way) for way in ways}}


def given_back(folder: Path) -> torch.Tensor:
    """Latents of Wan by diffusers' own Ulysses, after LVSA has shared a video and is disabled."""
    from lvsa_core.diffusers import enable_lvsa

    pipe, case = load("wan", folder), Case("wan", ulysses=dist.get_world_size())
    parallelize(pipe, case)
    lvsa = enable_lvsa(pipe, **KNOBS)
    generate("wan", pipe)
    lvsa.disable()
    return generate("wan", pipe)


def surrounded(folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The attention of ranks beside the reference, with tokens before and after the video, and text around them."""
    from lvsa_core import FrameGrid, TokenLayout, plan, reference_attend
    from lvsa_core.diffusers.groups import SequenceGroups
    from lvsa_core.diffusers.ulysses import take_heads

    grid, pattern, pairs = FrameGrid(11, 6), plan(11, reference_frames=5, window=1), []
    for ulysses, ring in ((2, 1), (1, 2)):
        pipe = load("cosmos3", folder)
        parallelize(pipe, Case("cosmos3", ulysses=ulysses, ring=ring))
        ranks = SequenceGroups.of(pipe.transformer)
        assert ranks is not None
        for ahead, behind, text in ((0, 5, 3), (7, 0, 0), (7, 5, 3)):
            torch.manual_seed(0)
            q, k, v = (torch.randn(1, text + ahead + grid.tokens + behind, heads, 8) for heads in (4, 2, 2))
            q = q[:, text:]  # as in Cosmos 3, whose text is no query
            layout = TokenLayout(grid, kv_before=text + ahead, kv_after=behind, q_before=ahead, q_after=behind)
            around = {"ahead": ahead, "behind": behind}
            own = [torch.cat([x[:, :n], ranks.part(x[:, n:], 1)], 1) for x, n in ((q, 0), (k, text), (v, text))]
            heads = take_heads(*own, pattern, layout, ranks, **around)
            whole = ranks.whole(heads.as_rows(heads.attention(scale=0.5)), 1, q.shape[1])
            pairs.append((whole, reference_attend(q, k, v, pattern, layout, scale=0.5)))
    return pairs


def faults(folder: Path) -> dict[str, str]:
    """What ranks are told that disagree, or ask for what cannot be shared, by the name of the fault."""
    from diffusers import FirstBlockCacheConfig

    from lvsa_core import FrameGrid, Pattern, TokenLayout
    from lvsa_core.diffusers import enable_lvsa, handle
    from lvsa_core.diffusers.groups import SequenceGroups
    from lvsa_core.diffusers.ulysses import take_heads

    rank, said = dist.get_rank(), {}

    def told(name: str, call: Callable[[Any], Any], knobs: Mapping[str, Any] | None = None) -> None:
        pipe = load("wan", folder)
        parallelize(pipe, Case("wan", ring=dist.get_world_size()))
        enable_lvsa(pipe, **{**KNOBS, **(knobs or {})})
        try:
            call(pipe)
            said[name] = "no error"
        except (RuntimeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"

    def cached(pipe: Any) -> None:
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        generate("wan", pipe)

    def processor_of_its_own(pipe: Any) -> None:
        attention = pipe.transformer.blocks[0].attn1
        attention.processor = type("Mine", (type(attention.processor),), {})()
        generate("wan", pipe)

    def three_heads(pipe: Any) -> None:
        other = load("wan", folder)
        parallelize(other, Case("wan", ulysses=2))
        ranks, x = SequenceGroups.of(other.transformer), torch.zeros(1, 4, 3, 8)
        assert ranks is not None
        take_heads(x, x, x, Pattern(4), TokenLayout(FrameGrid(4, 2)), ranks)

    told("knobs", lambda pipe: generate("wan", pipe), {"window_size": 4 + 4 * rank})
    told("seeds", lambda pipe: generate("wan", pipe, seed=rank))
    told("lengths", lambda pipe: generate("wan", pipe, SHORT + 4 * rank))
    told("cache", cached)
    told("processor", processor_of_its_own)
    told("heads", three_heads)
    wait, handle.WAIT = handle.WAIT, 2.0
    for absent in (1, 0, 1):  # not equally often
        if rank != absent:
            told("absent", lambda pipe: generate("wan", pipe))
        dist.barrier()
    handle.WAIT = wait
    told("all there again", lambda pipe: generate("wan", pipe))
    told("seeds again", lambda pipe: generate("wan", pipe, seed=rank))
    return said


def in_ranks(ranks: int, function: Callable[..., Any], *args: Any, folder: Path) -> list[Any]:
    """What ``function(*args)`` gives in each of so many processes; raises if one of them does.

    Args:
        folder: an empty one.
    """
    multiprocessing.set_forkserver_preload(PRELOAD)
    torch.multiprocessing.start_processes(
        _rank, (ranks, folder, function, args), nprocs=ranks, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _rank(rank: int, ranks: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if not torch.accelerator.is_available():  # diffusers 0.42 divides by it, to give each rank a device
        torch.accelerator.device_count = lambda: 1
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    torch.save(function(*args), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def make_all(cases: list[Case], folders: Mapping[str, Path]) -> list[Any]:
    """Every case; of two ranks also other tokens, what Wan makes with LVSA off again, and the faults."""
    made: list[Any] = [make(case, folders[case.kind]) for case in cases]
    if dist.get_world_size() > 2:
        return made
    return [*made, surrounded(folders["cosmos3"]), given_back(folders["wan"]), faults(folders["wan"])]

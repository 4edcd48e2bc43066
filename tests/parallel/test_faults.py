"""Ranks that have other settings, hang or die are an error everywhere, not another video and not a standstill."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.placements import FAMILIES
from tests.support.ranks import Ranks
from tests.support.worker import Case

TIMEOUT = 6  # seconds of the engine's groups, which is half an hour by default with gloo


@pytest.fixture
def case(checkpoint: Callable[..., Path]) -> Case:
    """Wan on two ranks of a ring."""
    family = FAMILIES["wan"]
    height, width = family.sizes["even"]
    return Case(
        model=str(checkpoint("wan")),
        ranks=2,
        parallel={"ring_degree": 2},
        request={"height": height, "width": width, "num_frames": family.long, "num_inference_steps": 2},
        settings={family.hook: "1"},
        decode=False,
    )


def another_window(rank: int) -> None:
    if rank == 1:
        os.environ["LVSA_WINDOW_SIZE"] = "20"


@pytest.mark.parametrize("degree", ["ring_degree", "tensor_parallel_size", "cfg_parallel_size"])
def test_settings_that_differ(ranks: Ranks, case: Case, degree: str) -> None:
    results = ranks.run(replace(case, parallel={degree: 2}, prepare=another_window))
    said = 0
    for result in results:
        said += "RanksDiffer: LVSA_WINDOW_SIZE is 12 on rank 0 and 20 on rank 1: every rank needs" in result.error
        assert result.error and not result.calls
    assert said  # by both, unless the process of the first has already ended, and with it the store


def switched_off(without: int, rank: int) -> None:
    import lvsa_vllm_omni.ranks

    lvsa_vllm_omni.ranks.WAIT = 2.0
    if rank == without:
        del os.environ[FAMILIES["wan"].hook]


@pytest.mark.parametrize("without", [0, 1])
def test_a_rank_without_lvsa(ranks: Ranks, case: Case, without: int) -> None:
    """The rank with LVSA says so; the other one waits for it, in the engine's ring, until it ends."""
    results = ranks.run(replace(case, prepare=partial(switched_off, without)))
    said = f"RanksDiffer: rank {without} does not run LVSA, but rank {1 - without} does: install the plugin"
    assert said in results[1 - without].error
    assert results[without].error and "RanksDiffer" not in results[without].error


def another_log(rank: int) -> None:
    os.environ["LVSA_MEM_LOG"] = str(rank)


def test_logs_may_differ(ranks: Ranks, case: Case) -> None:
    assert not any(result.error for result in ranks.run(replace(case, prepare=another_log)))


def hurried(rank: int) -> None:
    import torch.distributed.distributed_c10d as c10d

    c10d.default_pg_timeout = timedelta(seconds=TIMEOUT)


def hangs(rank: int) -> None:
    """Rank 1 stands still for a while in its first exchange."""
    import lvsa_core.sharded.attention as ring

    hurried(rank)
    start = ring.start_transfers

    def late(*given: object) -> Callable[[], None]:
        time.sleep(TIMEOUT + 4)
        return start(*given)  # type: ignore[arg-type]

    if rank == 1:
        ring.start_transfers = late


def dies(rank: int) -> None:
    """Rank 1 ends in its first exchange, without a word."""
    import lvsa_core.sharded.attention as ring

    hurried(rank)
    if rank == 1:
        ring.start_transfers = lambda *given: os._exit(7)


@pytest.mark.parametrize("fault", [hangs, dies])
def test_a_rank_that_fails_in_the_exchange(ranks: Ranks, case: Case, fault: Callable[[int], None]) -> None:
    """The other one gets an error within the time-out of the engine's groups; nothing runs dense instead."""
    began = time.monotonic()
    first, second = ranks.run(replace(case, prepare=fault))
    assert time.monotonic() - began < 60
    assert "RuntimeError" in first.error and "sharded_attend" in first.error
    assert second.error
    assert not any(name.startswith("fallback") for name in first.counts)


def rows_that_do_not_fit(rank: int) -> None:
    from lvsa_vllm_omni.hooks import FamilySpec, LayoutMismatch

    def shards(*given: object) -> None:
        raise LayoutMismatch("not the grid's")

    FamilySpec.shards = shards  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("name", ["wan", "hunyuan"])
def test_rows_that_do_not_fit_go_around_the_engines_ring(
    ranks: Ranks, checkpoint: Callable[..., Path], case: Case, name: str
) -> None:
    """Also HunyuanVideo's text, which the engine's ring wants back where it came from; one warning on each rank."""
    family = FAMILIES[name]
    case = replace(case, model=str(checkpoint(name)), request={**case.request, "num_frames": family.long})
    dense = ranks.run(replace(case, settings={}))
    results = ranks.run(replace(case, settings={family.hook: "1"}, prepare=rows_that_do_not_fit))
    for result in (*dense, *results):
        assert not result.error, result.error
    warnings = [[line for line in result.log if "[LVSA-FALLBACK] origin=ring" in line] for result in results]
    assert [len(lines) for lines in warnings] == [1, 1]
    assert np.array_equal(results[0].output, dense[0].output)


def without_memory(rank: int) -> None:
    import torch

    import lvsa_vllm_omni.backend as backend

    def attend(*given: object, **options: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 9 GiB")

    backend.attend = attend  # type: ignore[assignment]


def test_memory_that_runs_out_is_the_engines_error(ranks: Ranks, case: Case) -> None:
    """Dense attention needs about as much: it is not tried."""
    (result,) = ranks.run(replace(case, ranks=1, parallel={}, prepare=without_memory))
    assert "OutOfMemoryError: Tried to allocate 9 GiB" in result.error
    assert not any(name.startswith("fallback") for name in result.counts)


def without_log_sum_exp(rank: int) -> None:
    """As with a device that only has PyTorch's attention without it."""
    from lvsa_core.kernels.sdpa import PrefixWindow, SdpaKernel

    class Only(SdpaKernel):
        attention = property()  # type: ignore[assignment]

        def attend(self, *given: object, **options: object) -> object:
            return PrefixWindow.attend(SdpaKernel(), *given, **options)  # type: ignore[arg-type]

    import lvsa_core.kernels.registry as registry

    registry.KERNELS["sdpa"] = Only()
    registry.select.cache_clear()  # of the process that the ranks are forked from


def test_text_queries_need_a_log_sum_exp(ranks: Ranks, checkpoint: Callable[..., Path], case: Case) -> None:
    """Refused when the model is loaded, with what to do."""
    family = FAMILIES["hunyuan"]
    model = str(checkpoint("hunyuan"))
    results = ranks.run(replace(case, model=model, settings={family.hook: "1"}, prepare=without_log_sum_exp))
    for result in results:
        assert "HookError: LVSA cannot run here: under Ring the text's queries need the log-sum-exp" in result.error
        assert "use Ulysses, or another kernel (LVSA_BACKEND=auto chose sdpa)" in result.error

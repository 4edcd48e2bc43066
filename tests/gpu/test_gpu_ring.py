"""``sharded_attend`` over NCCL with a GPU for each rank; with one GPU a group of one. Over gloo: tests/lvsa_core."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from lvsa_core import FrameGrid
from lvsa_core.kernels.selftest import TOLERANCE
from lvsa_core.sharded.exchange import Shards
from tests.support.sharded_ranks import Case, assert_whole, cases, in_ranks, run_cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.multiproc,
    pytest.mark.skipif(
        not (torch.cuda.is_available() and dist.is_nccl_available()), reason="no CUDA device, or no NCCL"
    ),
]


def gpu_cases(ranks: int) -> dict[str, Case]:
    """Those of the CPU that a GPU has a kernel for, and calls whose frames take more than one of a kernel's tiles."""
    small = {name: case for name, case in cases(ranks).items() if case.dtype != torch.float64}
    shards = Shards(FrameGrid(24, 150), ranks, pad=ranks)
    large = replace(small["text behind"], shards=shards, text=70, heads=(4, 2), dtype=torch.bfloat16)
    overlaps = {"as it pays": None, "overlap": True, "no overlap": False}
    return small | {f"large, {name}": replace(large, overlap=overlap) for name, overlap in overlaps.items()}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4], ids="{} ranks".format)
def test_equals_the_whole(ranks: int) -> None:
    if ranks > torch.cuda.device_count():
        pytest.skip(f"it takes {ranks} GPUs, this machine has {torch.cuda.device_count()}")
    named = gpu_cases(ranks)
    found = in_ranks(ranks, run_cases, list(named.values()), timeout=120, backend="nccl")
    assert not any(isinstance(result, str) for result in found), found
    for i, case in enumerate(named.values()):
        assert_whole([results[i] for results in found], TOLERANCE[case.dtype])

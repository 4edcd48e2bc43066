"""The table of the docs is what the cases here measured: no cell without one."""

from types import SimpleNamespace

import pytest

from lvsa_core import Placement
from lvsa_vllm_omni import compat, parallelism
from lvsa_vllm_omni.hooks import SPECS
from tests.support.placements import ALL, CASES, LIMITS, Strategy


def placed(strategy: Strategy) -> Placement:
    from vllm_omni.diffusion.data import DiffusionParallelConfig

    return compat.placement(SimpleNamespace(parallel_config=DiffusionParallelConfig(**strategy.parallel)))


@pytest.mark.parametrize("family", SPECS)
@pytest.mark.parametrize("row", parallelism.PLACEMENTS, ids=lambda row: row.title)
def test_every_cell_is_measured(row: parallelism.PlacementOption, family: str) -> None:
    """A sparse cell by a case with the same options, the engine's limit by one that fails or changes nothing."""
    measured = {name for kind, name, _ in CASES if kind == family and "ignored" not in name}
    same = [name for name in measured if matches(row, ALL[name])]
    decision = row.decide(SPECS[family])
    if decision is not None:
        assert decision.verdict == "sparse" and same
        return
    assert not same
    refused = [
        limit for kind, limit, *_ in LIMITS.values() if kind == family and used(placed(limit)) <= used(row.placement)
    ]
    ignored = [name for kind, name, _ in CASES if kind == family and "ignored" in name]
    assert refused or ("stages" in row.engine_limits[family] and ignored)


def matches(row: parallelism.PlacementOption, strategy: Strategy) -> bool:
    """Whether a case has a row's degrees, or the same with HSDP over more ranks, and its options."""
    options = ("advanced_uaa" in row.options) == ("ulysses_mode" in strategy.parallel)
    return options and used(placed(strategy)) == used(row.placement)


def used(placement: Placement) -> set[str]:
    return {name for name, degree in vars(placement).items() if degree > 1}

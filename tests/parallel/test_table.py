"""The table of the docs is what the recorded run of all cases measured: no cell without one."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lvsa_core import Placement
from lvsa_vllm_omni import compat, parallelism
from lvsa_vllm_omni.hooks import SPECS
from tests.support.placements import ALL, CASES, FAMILIES, LIMITS, LIMITS_SAMPLE, SAMPLE, Placed


def placed(placement: Placed) -> Placement:
    from vllm_omni.diffusion.data import DiffusionParallelConfig

    return compat.placement(SimpleNamespace(parallel_config=DiffusionParallelConfig(**placement.parallel)))


ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "data" / "placements.json"


@pytest.mark.skipif(not RECORD.exists(), reason="the whole table has not been recorded yet: make test-all")
def test_the_record_is_of_these_cases() -> None:
    """``make test-all`` writes it: for every case of the table, every limit of the engine, and this vLLM-Omni."""
    record = json.loads(RECORD.read_text())
    cases = {f"test_ranks_do_what_one_does[{'-'.join(case)}]" for case in CASES}
    limits = {f"test_limits_of_the_engine[{limit}-{lvsa}]" for limit in LIMITS for lvsa in ("without", "with LVSA")}
    recorded = {name for name in record["placements"] if name.startswith(("test_ranks_do", "test_limits"))}
    assert recorded == cases | limits
    assert set(record["placements"].values()) == {"passed"}
    assert f"vllm-omni=={record['versions']['vllm-omni']}\n" in (ROOT / "constraints.txt").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])


def test_the_sample_has_every_way_with_every_kind_of_text() -> None:
    ways = {
        "none": {"whole", "ulysses", "ring", "allgather_kv"},
        "behind": {"whole", "ulysses", "ring", "allgather_kv"},
    }
    ways["keys first"] = ways["none"] - {"allgather_kv"}  # which the engine refuses
    found: dict[str, set[str]] = {text: set() for text in ways}
    sizes: dict[str, set[tuple[str, str]]] = {text: set() for text in ways}
    for family, placement, size in CASES:
        if (family, placement) in SAMPLE:
            shared = used(placed(ALL[placement])) & {"ulysses", "ring", "allgather_kv"} or {"whole"}
            found[FAMILIES[family].text] |= shared
            sizes[FAMILIES[family].text] |= {(way, size) for way in shared}
    assert found == ways
    for text, both in sizes.items():
        assert {("ulysses", "even"), ("ulysses", "odd"), ("ring", "even")} <= both, text
    assert {("allgather_kv", "even"), ("allgather_kv", "odd")} <= sizes["none"] & sizes["behind"]
    assert len([case for case in CASES if case[:2] in SAMPLE]) <= 35
    assert {case[:2] for case in CASES} >= SAMPLE and {*LIMITS} > {*LIMITS_SAMPLE}


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


def matches(row: parallelism.PlacementOption, placement: Placed) -> bool:
    """Whether a case has a row's degrees, or the same with HSDP over more ranks, and its options."""
    options = ("advanced_uaa" in row.options) == ("ulysses_mode" in placement.parallel)
    return options and used(placed(placement)) == used(row.placement)


def used(placement: Placement) -> set[str]:
    return {name for name, degree in vars(placement).items() if degree > 1}

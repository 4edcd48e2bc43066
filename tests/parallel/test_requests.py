"""Beyond the table of placements: half precision, lengths one after another, and the bytes of the exchange."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lvsa_core import FrameGrid, plan
from lvsa_core.sharded.exchange import Shards, exchange
from tests.support.placements import ALL, FAMILIES
from tests.support.worker import Result

Run = Callable[..., list[Result]]


@pytest.mark.parametrize("placement", ["ulysses2", "ring2"])
def test_bfloat16(run: Run, alone: Callable[..., Result], placement: str) -> None:
    """One and several ranks are equally far from float32; dense attention is 0.3 from it, the video's deviation 3.3."""
    family, placed = FAMILIES["wan"], ALL[placement]
    exact, half = alone(family, placed, "even"), replace(family, options={"dtype": "bfloat16"})
    (one,), results = run(half, replace(placed, ranks=1, parallel={}), "even"), run(half, placed, "even")
    for result in (one, *results):
        assert not result.error, result.error
        assert result.patterns == exact.patterns
    off = [np.sqrt(np.mean((result.output - exact.output) ** 2)) for result in (one, results[0])]
    assert 0 < off[0] < 0.1 and off[1] == pytest.approx(off[0], rel=0.2)


@pytest.mark.parametrize("placement", ["ulysses2", "allgather2", "ring2"])
def test_lengths_one_after_another(run: Run, alone: Callable[..., Result], placement: str) -> None:
    """A dense request and a longer sparse one leave nothing behind."""
    family, placed = FAMILIES["wan"], ALL[placement]
    size = placed.sizes[-1]
    earlier = [{"num_frames": frames, "num_inference_steps": 2} for frames in (33, 161)]
    one, results = alone(family, placed, size), run(family, placed, size, earlier=earlier)
    for result in results:
        assert not result.error, result.error
        assert (result.counts["request:dense"], result.counts["request:sparse"]) == (1, 2)
        assert [frames for frames, *_ in result.patterns] == [41, 41, 33, 33, 33]
        assert result.patterns[2:] == one.patterns
    np.testing.assert_allclose(results[0].output, one.output, rtol=0, atol=1e-4)


@pytest.mark.parametrize("placement", ["ulysses2", "ring2"])
def test_knobs_of_a_request(run: Run, placement: str, tmp_path: Path) -> None:
    """All ranks take them; the first one of an engine tells of the request."""
    family, placed = FAMILIES["wan"], ALL[placement]
    asked = {"extra_args": {"lvsa": {"sparsity_scale": 0.5, "riflex_scale": 2}}}
    found = []
    for place in (replace(placed, ranks=1, parallel={}), placed):
        file = tmp_path / f"{place.ranks}.jsonl"
        settings = {family.hook: "1", "LVSA_STRICT": "1", "LVSA_JOURNAL": str(file)}
        results = run(family, place, "even", settings, earlier=[asked])
        for result in results:
            assert not result.error, result.error
            assert result.patterns[0] != result.patterns[-1] and result.patterns == results[0].patterns
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [line["knobs"] for line in lines] == [asked["extra_args"]["lvsa"], None]
        found.append((results[0].patterns, [line["density"] for line in lines]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("kind", "placement"),
    [
        ("wan", "ulysses2"),
        ("wan", "allgather2"),
        ("wan", "ring2"),
        ("hunyuan", "ring2"),
    ],
)
def test_the_recipe(run: Run, alone: Callable[..., Result], kind: str, placement: str) -> None:
    """Anchors at other positions, boosted and standing still at first: on ranks the video of one."""
    family, placed = FAMILIES[kind], ALL[placement]
    settings = {family.hook: "1", "LVSA_STRICT": "1", "LVSA_RECIPE": "long", "LVSA_ROTATE_AFTER": "0.3"}
    (one,) = run(family, replace(placed, ranks=1, parallel={}), "even", settings)
    results = run(family, placed, "even", settings)
    for result in (one, *results):
        assert not result.error, result.error
        assert [offset for _, _, offset, _ in result.patterns] == [0, 1] and result.patterns == one.patterns
    np.testing.assert_allclose(results[0].output, one.output, rtol=0, atol=1e-4)
    assert np.abs(one.output - alone(family, placed, "even").output).max() > 0.01


@pytest.mark.parametrize("placement", ["ring2", "ulysses2-ring2"])
def test_bytes_of_the_exchange(run: Run, placement: str) -> None:
    """What the engine's calls send is what the formula of docs/scaling.md counts, on every rank."""
    placed, head_size, itemsize = ALL[placement], 32, 4
    groups = placed.parallel["ring_degree"]
    for rank, result in enumerate(run(FAMILIES["wan"], placed, "even")):
        assert not result.error, result.error
        sent = 0
        for call in result.calls:
            pattern = plan(call.frames, reference_frames=21, step=call.step)
            assert (pattern.offset, pattern.keyframe_interval) == (call.offset, call.interval)
            moved = exchange(pattern, Shards(FrameGrid(call.frames, call.patches), groups)).transfers
            group = rank // (placed.ranks // groups)  # Ulysses groups are neighbours
            rows = sum(transfer.rows for transfer in moved if transfer.source == group != transfer.target)
            sent += 2 * rows * call.heads * head_size * itemsize
        assert result.sent == sent > 0

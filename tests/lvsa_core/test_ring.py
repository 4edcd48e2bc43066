"""``ring_attend`` in several processes: the whole sequence's attention, with the transfers that the pattern needs."""

import os
import signal
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ring_ranks import Case, in_ranks, moved, run_case, run_cases

from lvsa_core import FrameGrid, Pattern, plan
from lvsa_core.exchange import Shards, exchange
from lvsa_core.ring import ring_attend

pytestmark = pytest.mark.multiproc


def cases(ranks: int) -> dict[str, Case]:
    """24 frames of 6 tokens are whole frames on every rank; of the other numbers the ranks share frames."""
    pattern = plan(24, reference_frames=9, window=1)
    whole, cut = (Shards(FrameGrid(frames, 6), ranks) for frames in (24, {2: 21, 3: 20, 4: 22}[ranks]))
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
        "concatenated": replace(base, kernel="sdpa-concatenated", text=4, overlap=True),
    }  # fmt: skip


@pytest.fixture(scope="module", params=[2, 3, 4], ids="{} ranks".format)
def ranks(request: pytest.FixtureRequest) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Number of ranks, and for each case what every rank found."""
    named = cases(request.param)
    found = in_ranks(request.param, run_cases, list(named.values()))
    assert not any(isinstance(result, str) for result in found), found
    return request.param, {name: [results[i] for results in found] for i, name in enumerate(named)}


@pytest.mark.parametrize("name", cases(2))
def test_equals_the_whole(ranks: tuple[int, dict[str, list[dict[str, Any]]]], name: str) -> None:
    count, found = ranks
    case = cases(count)[name]
    allowed = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-5, torch.float64: 1e-12}[case.dtype]
    for result in found[name]:
        assert "error" not in result, result["error"]
        assert result["difference"] < allowed
        assert torch.equal(result["text output"], found[name][0]["text output"]), "the text must not drift apart"


@pytest.mark.parametrize("name", cases(2))
def test_bytes_are_those_of_the_pattern(ranks: tuple[int, dict[str, list[dict[str, Any]]]], name: str) -> None:
    """Counted where they are sent, against the definition: frames that a rank's rows may attend to and it lacks."""
    count, found = ranks
    case = cases(count)[name]
    shards, heads, kv_heads = case.shards, *case.heads
    rows = 0
    for rank in range(count):
        held = range(rank * shards.rows, min((rank + 1) * shards.rows, shards.tokens))
        for token in range(shards.tokens):
            if token not in held and any(attends(case, row, token) for row in held):
                rows += 1
    sent = sum(result["keys"] for result in found[name])
    assert sent == rows * 2 * case.batch * kv_heads * 16 * case.dtype.itemsize
    text = case.text if case.text_queries else 0
    wide = max(4, case.dtype.itemsize)  # of a log-sum-exp
    each = case.batch * text * heads * (16 * case.dtype.itemsize + wide)
    assert [result["text"] for result in found[name]] == [each * (count - 1)] * count


def attends(case: Case, row: int, token: int) -> bool:
    """Whether one token of the sequence sees another, by the definition."""
    shards = case.shards
    frames = [(x - shards.before) // shards.grid.patches for x in (row, token)]
    if not all(0 <= frame < shards.grid.frames for frame in frames):
        return True
    return case.pattern.allows(*frames)


def silent_rank(case: Case) -> str:
    """Rank 1 never joins in, but lives."""
    if dist.get_rank() == 1:
        time.sleep(20)
        return "silent"
    return in_time(case)


def dying_rank(case: Case) -> str:
    """Rank 1 is killed."""
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return in_time(case)


def in_time(case: Case) -> str:
    start = time.monotonic()
    try:
        run_case(case)
    except RuntimeError as error:
        return f"{type(error).__name__} after {time.monotonic() - start:.0f} s"
    return "no error"


@pytest.mark.parametrize("fault", [silent_rank, dying_rank])
def test_a_rank_that_fails_is_an_error_on_the_others(fault: Any) -> None:
    """Within the group's time-out, here 4 s, and not for ever."""
    found = in_ranks(3, fault, cases(3)["text behind"], timeout=4)
    for rank in (0, 2):
        assert "Error after" in found[rank], found
        assert int(found[rank].split()[-2]) < 18


def wrong_calls() -> list[str]:
    """Messages of calls that do not fit; none of them sends anything, so that all ranks come to the end."""
    shards, pattern = Shards(FrameGrid(6, 2), 2), Pattern(6)
    x = torch.zeros(1, 6, 2, 8)
    group: Any = dist.group.WORLD
    calls: list[tuple[Any, ...]] = [
        (x, x, x, pattern, Shards(FrameGrid(6, 2), 3)),
        (x[:, :5], x, x, pattern, shards),
        (x, x[:, :4], x[:, :4], pattern, shards),
        (x, x, x, Pattern(5), shards),
    ]
    said = []
    for call in calls:
        try:
            ring_attend(*call, group)
        except ValueError as error:
            said.append(str(error))
    try:
        ring_attend(torch.zeros(1, 8, 2, 8), x, x, pattern, shards, group, kernel="sdpa-concatenated")
    except RuntimeError as error:
        said.append(str(error))
    return said


def test_calls_that_do_not_fit() -> None:
    for said in in_ranks(2, wrong_calls):
        assert said == [
            "the group has 2 ranks, the sequence 3",
            "a rank holds 6 tokens, but k has 6 and q 5",
            "a rank holds 6 tokens, but k has 4 and q 6",
            "the pattern has 5 frames, but the sequence has 6",
            "the kernel sdpa-concatenated gives no log-sum-exp, which text queries need under ring attention: use "
            "Ulysses",
        ]


def test_an_exchange_needs_no_index_on_the_device() -> None:
    """All pieces are slices: a handful a layer, whatever the length."""
    shards = Shards(FrameGrid(241, 1560), 8)
    steps = [exchange(plan(241, reference_frames=21, step=step), shards) for step in range(10)]
    for rank in range(8):
        counts = [sum(rank in (x.source, x.target) for x in step.transfers) for step in steps]
        assert max(counts) < 100

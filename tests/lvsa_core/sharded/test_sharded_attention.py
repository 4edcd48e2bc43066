"""``sharded_attend`` in several processes: the whole sequence's attention, by the transfers that a pattern needs."""

import os
import signal
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lvsa_core import FrameGrid, Pattern, plan
from lvsa_core.sharded import attention as ring
from lvsa_core.sharded.attention import _pays, sharded_attend
from lvsa_core.sharded.exchange import Shards, exchange
from lvsa_core.sharded.transfers import traffic
from tests.support.sharded_ranks import Case, assert_whole, cases, in_ranks, run_case, run_cases

pytestmark = pytest.mark.multiproc


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids="{} ranks".format)
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
    assert_whole(found[name], allowed)


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


class Noted:
    """A work that notes when it is waited for."""

    def __init__(self, work: Any, seen: list[str]) -> None:
        self.work, self.seen = work, seen

    def wait(self) -> None:
        self.seen.append("text waited for")
        self.work.wait()


def order(case: Case) -> list[str]:
    """What a call does, one after the other."""
    seen: list[str] = []
    originals = ring.start_transfers, ring.all_gather, ring.compute

    def start(*given: Any) -> Any:
        seen.append("keys sent")
        wait = originals[0](*given)
        return lambda: seen.append("keys waited for") or wait()

    def gather(*given: Any, **named: Any) -> Any:
        seen.append("text sent")
        return Noted(originals[1](*given, **named), seen)

    def run(*given: Any) -> Any:
        seen.append("video")
        return originals[2](*given)

    ring.start_transfers, ring.all_gather, ring.compute = start, gather, run
    try:
        run_case(case)
    finally:
        ring.start_transfers, ring.all_gather, ring.compute = originals
    return seen


@pytest.mark.parametrize("overlap", [True, None])
def test_the_text_is_waited_for_last(overlap: bool | None) -> None:
    """NCCL takes a group's operations one after the other: who waits for the text waits for all keys."""
    case = replace(cases(2)["overlap, text behind"], overlap=overlap)
    middle = ["video", "keys waited for"] if overlap else ["keys waited for", "video"]  # on a CPU overlapping is no use
    for seen in in_ranks(2, order, case):
        assert seen == ["keys sent", "text sent", *middle, "text waited for"]


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
            sharded_attend(*call, group)
        except ValueError as error:
            said.append(str(error))
    try:
        sharded_attend(torch.zeros(1, 8, 2, 8), x, x, pattern, shards, group, kernel="sdpa-concatenated")
    except RuntimeError as error:
        said.append(str(error))
    return [*said, f"{traffic.keys + traffic.text} bytes sent"]


def test_calls_that_do_not_fit() -> None:
    for said in in_ranks(2, wrong_calls):
        assert said == [
            "the group has 2 ranks, the sequence 3",
            "a rank holds 6 tokens, but k has 6 and q 5",
            "a rank holds 6 tokens, but k has 4 and q 6",
            "the pattern has 5 frames, but the sequence has 6",
            "the kernel sdpa-concatenated gives no log-sum-exp, which text queries need under ring attention: use "
            "Ulysses",
            "0 bytes sent",
        ]


def test_an_exchange_needs_no_index_on_the_device() -> None:
    """All pieces are slices: a handful a layer, whatever the length."""
    shards = Shards(FrameGrid(241, 1560), 8)
    steps = [exchange(plan(241, reference_frames=21, step=step), shards) for step in range(10)]
    for rank in range(8):
        counts = [sum(rank in (x.source, x.target) for x in step.transfers) for step in steps]
        assert max(counts) < 100


def pays(frames: int, patches: int, ranks: int, *, before: int = 0, text: int = 0, kv_heads: int = 8) -> set[bool]:
    """What :func:`_pays` says of the ranks of all steps, for bfloat16 and 8 heads."""
    shards, found = Shards(FrameGrid(frames, patches), ranks, before), set()
    for step in range(24):
        steps = exchange(plan(frames, reference_frames=21, step=step), shards)
        for rank in range(ranks):
            ready = text + steps.local_rows(rank)
            found.add(_pays(shards.rows, ready, steps.received_rows(rank), (8, kv_heads), 2))
    return found


def test_where_overlapping_pays() -> None:
    assert pays(81, 3600, 8) == pays(81, 1560, 8) == pays(241, 3600, 8) == {True}
    assert pays(241, 3600, 16) == {True, False}  # not where a rank holds no whole anchor: nothing is ready
    assert pays(241, 3600, 16, text=1000) == {True}
    assert pays(81, 1560, 8, before=8, text=300) == {False}  # beside control or sound only the text is ready
    assert pays(81, 1560, 8, before=8, text=1000) == {True}
    assert pays(24, 6, 4, text=5) == {False}


def test_what_arrives_must_outweigh_a_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer keys on a slower link, more if they have fewer heads than the queries."""
    assert _pays(80_000, 10_000, 5_000, (8, 8), 2) and not _pays(80_000, 10_000, 4_000, (8, 8), 2)
    assert _pays(80_000, 10_000, 20_000, (8, 2), 2) and not _pays(80_000, 10_000, 5_000, (8, 2), 2)
    monkeypatch.setattr(ring, "LINK", 4.5e11)
    assert _pays(80_000, 10_000, 44_000, (8, 8), 2) and not _pays(80_000, 10_000, 40_000, (8, 8), 2)


def test_enough_keys_must_be_ready() -> None:
    assert _pays(80_000, 800, 80_000, (8, 8), 2) and not _pays(80_000, 700, 80_000, (8, 8), 2)
    assert _pays(80_000, 1600, 80_000, (8, 8), 4) and not _pays(80_000, 1500, 80_000, (8, 8), 4)

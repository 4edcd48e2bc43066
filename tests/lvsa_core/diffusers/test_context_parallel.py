"""A video shared by ranks is the one that a single process makes, for every family and way to share it."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.cp_ranks import Case, in_ranks, make_all
from tests.support.videos import FAMILIES, KNOBS, LATENT, SHORT, generate, pattern_at

pytestmark = pytest.mark.multiproc

#: Sizes of the video for which 2 divides neither the patches of a frame nor the 11 latent frames.
ODD = {kind: {"frames": 41, "height": 48, "width": 80} for kind in FAMILIES} | {
    "cosmos3": {"frames": 41, "height": 32, "width": 96}
}
RIFLEX = {"riflex_s": 2.4}
MOVED = {"anchor_positions": "remap", "anchor_boost": 1.0, "rotate_after": 0.3}


def _cases(ranks: int) -> list[Case]:
    """Long videos of all families; what is special of one once."""
    ways = {2: [(2, 1), (1, 2)], 4: [(4, 1), (1, 4), (2, 2)]}[ranks]
    cases = [Case(kind, *way, options=more) for kind in FAMILIES for way in ways for more in ({}, ODD[kind])]
    if ranks == 4:
        cases += [Case("wan", ulysses=2, groups=2)]
    else:
        cases += [Case(kind, ring=2, options={"frames": SHORT}) for kind in FAMILIES]
        cases += [Case(kind, *way, knobs=RIFLEX) for kind in ("wan", "hunyuan") for way in ways]
        cases += [Case(kind, *way, knobs=MOVED) for kind in ("wan", "hunyuan", "cogvideox") for way in ways]
        cases += [Case(kind, ring=2, first=True) for kind in ("wan-i2v", "wan-ti2v", "wan-a14b", "hunyuan-i2v")]
        cases += [Case("wan-vace", *way, options=ODD["wan"], knobs=RIFLEX) for way in ways]
    return cases


@pytest.fixture(scope="module")
def shared(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[Any]]:
    """What each of so many ranks has made: all cases in the same processes, one after the other."""

    def run(ranks: int) -> list[Any]:
        cases = _cases(ranks)
        folders = {case.kind: checkpoint(case.kind) for case in cases}
        return in_ranks(ranks, make_all, cases, folders, folder=tmp_path_factory.mktemp("ranks"))

    return lru_cache(run)


@pytest.fixture(scope="module")
def alone(pipeline: Callable[[str], Any]) -> Callable[[Case], Tensor]:
    """What a single process makes."""
    from lvsa_core.diffusers import enable_lvsa

    made: dict[str, Tensor] = {}

    def make(case: Case) -> Tensor:
        key = repr((case.kind, case.options, case.knobs))
        if key not in made:
            lvsa = enable_lvsa(pipeline(case.kind), **KNOBS, **case.knobs)
            made[key] = generate(case.kind, pipeline(case.kind), **case.options)
            lvsa.disable()
        return made[key]

    return make


def _each(ranks: int) -> list[Any]:
    return [pytest.param(ranks, index, id=f"{ranks}-{case.name}") for index, case in enumerate(_cases(ranks))]


@pytest.mark.parametrize(("ranks", "index"), [*_each(2), *_each(4)])
def test_equal_to_one_process(
    ranks: int, index: int, shared: Callable[[int], list[Any]], alone: Callable[[Case], Tensor]
) -> None:
    """On every rank: the latents, and the pattern of every step, which moves the anchors on. Rings exchange by it."""
    case = _cases(ranks)[index]
    frames = (case.options.get("frames", 4 * LATENT - 3) - 1) // 4 + 1
    for results in shared(ranks):
        made = results[index]
        torch.testing.assert_close(made["latents"], alone(case), rtol=0, atol=1e-4)
        assert (made["sent"] > 0) == (case.ring > 1)
        attention = "sharded_attend" if case.ring > 1 else "attend"
        assert {way[-5:] for way in made["ways"]} == {
            ("sparse_attention", "lvsa_attend", "sparse", attention, "compute")
        }
        assert max(map(len, made["ways"])) <= 6  # with the two that have returned, eight: see docs/architecture.md
        report = made["report"]
        assert (report.frames, report.steps, report.ranks) == (frames, 3, case.ulysses * case.ring)
        if case.options.get("frames") == SHORT:
            assert report.sparse_steps == 0 and "within the attention budget" in report.reason
        else:
            assert report.sparse_steps == 3 and not report.reason
            found = made["patterns"]
            if case.knobs == MOVED:
                assert {(pattern.bias, pattern.grouping is None) for pattern in found.values()} == {(1.0, False)}
                assert [found[step].offset for step in range(3)] == [0, 0, 1]
                assert report.anchors.startswith("anchor_positions=remap group=")
            else:
                assert found == {step: pattern_at(step, frames) for step in range(3)}


def test_other_tokens_than_the_videos(shared: Callable[[int], list[Any]]) -> None:
    """VACE's reference images stand ahead of the video, Cosmos 3's sound and action behind it."""
    for results in shared(2):
        assert len(results[-3]) == 6
        for out, expected in results[-3]:
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_disable_gives_diffusers_own_ulysses_back(
    shared: Callable[[int], list[Any]], pipeline: Callable[[str], Any]
) -> None:
    for results in shared(2):
        torch.testing.assert_close(results[-2], generate("wan", pipeline("wan")), rtol=0, atol=1e-4)


def test_ranks_that_disagree_are_told_so(shared: Callable[[int], list[Any]]) -> None:
    for rank, results in enumerate(shared(2)):
        said = results[-1]
        assert said["knobs"].startswith("RanksDiffer: window_size is 4 on rank 0 and 8 on rank 1: every rank needs")
        assert said["seeds"].startswith("RanksDiffer: the noise of rank 1 is not that of rank 0: give the pipeline's")
        assert said["lengths"].startswith("RanksDiffer: latent frames is 5 on rank 0 and 6 on rank 1")
        assert said["absent"].startswith(f"RanksDiffer: rank {1 - rank} does not run LVSA, or has failed, while rank")


def test_ranks_meet_again_after_one_was_absent(shared: Callable[[int], list[Any]]) -> None:
    for results in shared(2):
        assert results[-1]["all there again"] == "no error"
        assert results[-1]["seeds again"].startswith("RanksDiffer: the noise of rank 1 is not that of rank 0")


def test_what_cannot_be_shared_is_an_error(shared: Callable[[int], list[Any]]) -> None:
    """Never dense attention of a part of the video, and never ranks that wait for each other."""
    for results in shared(2):
        said = results[-1]
        assert "FirstBlockCacheConfig lets each rank decide" in said["cache"]
        assert "cannot share this call among ranks: the attention has processors of its own (Mine)" in said["processor"]
        assert "ulysses_degree=2 does not divide the 3 heads" in said["heads"]

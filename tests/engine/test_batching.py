"""Requests that run in one batch, and a queue of all sorts: each video is the one that its request gives alone."""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_core import keyframe_interval
from lvsa_vllm_omni import journal, runner
from tests.support.attended import Attended
from tests.support.capabilities import ONE_AT_A_TIME, batches_requests
from tests.support.engine import ROUNDING
from tests.support.log import DIAGNOSTICS, MEMORY_LINE, TIME_LINE, Log, steps

#: Video frames of 25 latent frames; the training horizon of this model is 21.
LONG, LATENT = 97, 25
STEPS, BLOCKS, BRANCHES = 3, 2, 2

#: How far one attention call may be from the reference, computed in float32, and how far dense attention is at least.
OF_A_CALL = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
DENSE_IS_OFF_BY = 5e-2

Queue = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def batches() -> None:
    if not batches_requests():
        pytest.skip(ONE_AT_A_TIME)


def check(calls: list[Attended]) -> None:
    """Every call is the reference's to rounding, with the anchors of its step."""
    assert calls
    for call in calls:
        assert call.error < OF_A_CALL[call.dtype] and call.dense_error > DENSE_IS_OFF_BY, call
        assert call.pattern.offset == call.step % call.pattern.keyframe_interval, call


@pytest.fixture
def run_queue(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Queue], dict[str, Any]]:
    """Run requests in an engine that waits with the first until all have arrived, then admits them by its own rules."""
    from vllm_omni.diffusion.sched.request_scheduler import RequestScheduler

    def run(engine: Any, queue: Queue) -> dict[str, Any]:
        complete = False

        def all_there(self: Any, *_: Any, **__: Any) -> bool:
            nonlocal complete
            complete = complete or self.num_waiting_requests() >= len(queue)
            return complete

        with monkeypatch.context() as patch:
            patch.setattr(RequestScheduler, "should_end_admission_wait", all_there)
            for name, request in queue.items():
                engine.submit(name, **request)
            return engine.outcomes(set(queue))

    return run


CATS: Queue = {
    "cat": {"frames": LONG, "prompt": "a cat on a mat", "seed": 1},
    "sea": {"frames": LONG, "prompt": "waves of the sea at night, seen from far above", "seed": 2},
    "car": {"frames": LONG, "prompt": "cars", "seed": 3},
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_batch_in_half_precision(starting: Any, attended: list[Attended], run_queue: Any, dtype: str) -> None:
    """float32 is every other test's. This one stands first: there is one engine at a time."""
    settings = {"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1"}
    with starting(settings, dtype=dtype, max_num_seqs=2, request_batch_max_wait_ms=1000) as engine:
        queue = {name: {**CATS[name], "output_type": "latent", "steps": 2} for name in ("cat", "sea")}
        run_queue(engine, queue)
    assert len(attended) == 2 * BRANCHES * BLOCKS
    assert {(call.batch, call.dtype, call.pattern.keyframe_interval) for call in attended} == {
        (2, getattr(torch, dtype), keyframe_interval(LATENT, reference_frames=21))
    }
    check(attended)


@pytest.fixture(scope="module")
def engine(starting: Any) -> Iterator[Any]:
    settings = {"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1", **DIAGNOSTICS}
    with starting(settings, max_num_seqs=3, request_batch_max_wait_ms=1000) as running:
        yield running


@pytest.fixture(scope="module")
def alone(engine: Any) -> dict[str, np.ndarray]:
    return {name: engine.video(**request) for name, request in CATS.items()}


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max())


def test_each_request_of_a_batch_gets_its_own_video(
    engine: Any, alone: dict[str, np.ndarray], attended: list[Attended], run_queue: Any
) -> None:
    videos = run_queue(engine, CATS)
    assert [call.batch for call in attended] == [3] * STEPS * BRANCHES * BLOCKS
    assert [call.step for call in attended] == [step for step in range(STEPS) for _ in range(BRANCHES * BLOCKS)]
    check(attended)
    for name in CATS:
        for other in CATS:
            apart = difference(videos[name][0], alone[other])
            assert apart < ROUNDING if name == other else apart > 0.02, (name, other)


def test_several_videos_of_each_prompt(engine: Any, attended: list[Attended], run_queue: Any) -> None:
    two = {"num_outputs_per_prompt": 2, "frames": LONG}
    requests = {name: {**CATS[name], **two} for name in ("cat", "sea")}
    single = {
        name: run_queue(engine, {f"{name}-alone": request})[f"{name}-alone"] for name, request in requests.items()
    }
    attended.clear()
    videos = run_queue(engine, requests)
    assert {call.batch for call in attended} == {4}
    check(attended)
    for name in requests:
        assert videos[name].shape == (2, LONG, 64, 64, 3)
        assert difference(videos[name], single[name]) < ROUNDING
        assert difference(videos[name][0], videos[name][1]) > 0.02


#: Latent frames 23, 25, 29 and 37, tokens of a frame 15, 16, 7 and 21; 90 frames are no whole number of latent frames.
SORTS: Queue = {
    "picture": {"frames": 1},
    "portrait": {"frames": 1, "seed": 6, "prompt": "a face"},
    "odd": {"frames": 90, "size": (48, 80), "seed": 5},
    "cat": CATS["cat"],
    "sea": CATS["sea"],
    "strip": {"frames": 113, "size": (16, 112), "seed": 7, "steps": 2},
    "short": {"frames": 17, "seed": 8},
    "prime": {"frames": 145, "size": (48, 112), "seed": 9, "guidance_scale": 1.0},
    "last": {"frames": 1, "seed": 10},
    "car": CATS["car"],
}
TOKENS = {"odd": 23 * 15, "cat": 400, "sea": 400, "car": 400, "strip": 29 * 7, "prime": 37 * 21}


def test_a_queue_of_lengths_that_are_no_multiples_and_of_pictures(
    engine: Any, attended: list[Attended], run_queue: Any
) -> None:
    single = {}
    for name, request in SORTS.items():
        attended.clear()
        single[name] = run_queue(engine, {f"{name}-alone": request})[f"{name}-alone"]
        assert {call.tokens for call in attended} == ({TOKENS[name]} if name in TOKENS else set()), name
    attended.clear()
    journal.counts.clear()
    videos = run_queue(engine, SORTS)
    waves = [wave for wave, _ in groupby((call.batch, call.tokens) for call in attended)]
    assert waves == [(1, 23 * 15), (2, 25 * 16), (1, 29 * 7), (1, 37 * 21), (1, 25 * 16)]
    check(attended)
    # Events are of batches: two long videos in one, and two pictures in one.
    assert (journal.counts["request:sparse"], journal.counts["request:dense"]) == (5, 3)
    for name in SORTS:
        assert difference(videos[name], single[name]) < ROUNDING, name
    assert videos["odd"].shape[1:] == (89, 48, 80, 3) and videos["picture"].shape[1:] == (1, 64, 64, 3)


def test_the_diagnostics_of_a_batch(engine: Any, run_queue: Any) -> None:
    with Log() as log:
        run_queue(engine, CATS)
        run_queue(engine, {"after": CATS["cat"]})
    assert steps(MEMORY_LINE, log.starting("[LVSA-MEM]")) == "012012"
    times = log.starting("[LVSA-TIME]")
    assert steps(TIME_LINE, times) == "012012"
    assert all(float(line.split("dt=")[1].rstrip("s")) > 0 for line in times)
    masks = [line.splitlines() for line in log.starting("[LVSA-MASK]")]
    assert [rows[0].split()[1:3] for rows in masks] == [[f"step={n}", f"total_lat_frames={LATENT}"] for n in (0, 1)] * 2
    assert all([len(row) for row in rows[1:]] == [LATENT] * LATENT for rows in masks)
    assert masks[0][1:] != masks[1][1:] and masks[:2] == masks[2:]
    assert len(log.starting("[LVSA] installed on 2 blocks")) == 2


def test_what_kernels_keep_is_given_back_after_a_batch(
    engine: Any, run_queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the engine may go to sleep."""
    given_back: list[int] = []
    monkeypatch.setattr(runner, "release", lambda: given_back.append(1))
    run_queue(engine, CATS)
    assert given_back

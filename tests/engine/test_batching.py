"""Requests that run in one batch, and a queue of all sorts: each video is the one that its request gives alone."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lvsa_core import attend, keyframe_interval, reference_attend
from lvsa_vllm_omni import compat, journal, scope, seam

#: Video frames of 25 latent frames; the training horizon of this model is 21.
LONG, LATENT = 97, 25
STEPS, BLOCKS, BRANCHES = 3, 2, 2

#: Through a few layers and the VAE, in float32, or in bfloat16 on an accelerator.
ROUNDING = 2e-2 if torch.accelerator.is_available() else 2e-4

#: How far one attention call may be from the reference, computed in float32, and how far dense attention is at least.
OF_A_CALL = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}
DENSE_IS_OFF_BY = 5e-2

DIAGNOSTICS = {"LVSA_MEM_LOG": "1", "LVSA_STEP_TIME_LOG": "1", "LVSA_MASK_LOG": "0-1"}
MEMORY_LINE = r"\[LVSA-MEM\] step=(\d+) (?:cpu|cuda)=0 alloc=\d+\.\d{3}GB reserved=\d+\.\d{3}GB peak=\d+\.\d{3}GB"
TIME_LINE = r"\[LVSA-TIME\] step=(\d+) dt=(\d+\.\d{3})s"

Queue = dict[str, dict[str, Any]]


def submit(engine: Any, name: str, frames: int, *, size: tuple[int, int] = (64, 64), **options: Any) -> None:
    """Put one request into the running engine's queue, and return at once; ``name`` is its id."""
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams

    prompt: dict[str, Any] = {"prompt": options.pop("prompt", "a cat on a mat"), "negative_prompt": "bad"}
    if "image" in options:
        prompt["multi_modal_data"] = {"image": options.pop("image")}
    defaults = {"seed": 42, "guidance_scale": 4.0, "num_inference_steps": options.pop("steps", STEPS)}
    parameters = OmniDiffusionSamplingParams(height=size[0], width=size[1], num_frames=frames, **(defaults | options))
    engine.omni.engine.add_request(
        request_id=name, prompt=prompt, sampling_params_list=[parameters], final_output_stage_ids=[0]
    )


def outcomes(engine: Any, names: set[str], timeout: float = 120) -> dict[str, np.ndarray | str]:
    """Wait for what becomes of requests: the videos [outputs, F, H, W, 3], or the error."""
    found: dict[str, np.ndarray | str] = {}
    end = time.monotonic() + timeout
    while names - set(found):
        assert time.monotonic() < end, f"no answer to {names - set(found)}"
        message = engine.omni.engine.try_get_output(timeout=0.1)
        if message is None or getattr(message, "request_id", None) not in names:
            continue
        output = getattr(message, "engine_outputs", None)
        error = getattr(message, "error", None) or getattr(output, "error", None)
        if error:
            found[message.request_id] = str(error)
        elif message.finished:
            found[message.request_id] = np.asarray(output.images[0])
    return found


class Lines(logging.Handler):
    """The plugin's log lines while the block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "Lines":
        logging.getLogger("vllm.lvsa").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("vllm.lvsa").removeHandler(self)

    def starting(self, start: str) -> list[str]:
        """Those that start so."""
        return [line for line in self.lines if line.startswith(start)]


def steps(pattern: str, lines: list[str]) -> str:
    """The steps of well-formed lines, in order."""
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found), lines
    return "".join(match[1] for match in found if match)


@dataclass(frozen=True)
class Attended:
    """A sparse attention call: what it was, and how far it and dense attention are from the reference."""

    batch: int
    tokens: int
    dtype: str
    step: int
    offset: int
    interval: int
    error: float
    dense_error: float


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[Attended]:
    """The sparse attention calls, as the engine makes them."""
    seen: list[Attended] = []

    def watched(q: Tensor, k: Tensor, v: Tensor, pattern: Any, layout: Any, **options: Any) -> Tensor:
        found = attend(q, k, v, pattern, layout, **options)
        exact = [tensor.float() for tensor in (q, k, v)]
        wanted = reference_attend(*exact, pattern, layout, scale=options["scale"])
        q_, k_, v_ = (tensor.transpose(1, 2) for tensor in exact)
        dense = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_, scale=options["scale"]).transpose(1, 2)
        seen.append(
            Attended(
                *(q.shape[0], q.shape[1], str(q.dtype).removeprefix("torch.")),
                compat.forward_context().denoise_step_idx,
                *(pattern.offset, pattern.keyframe_interval),
                *(float((tensor.float() - wanted).abs().max()) for tensor in (found, dense)),
            )
        )
        return found

    monkeypatch.setattr(scope, "attend", watched)
    return seen


def check(calls: list[Attended]) -> None:
    """Every call is the reference's to rounding, with the anchors of its step."""
    assert calls
    for call in calls:
        assert call.error < OF_A_CALL[call.dtype] and call.dense_error > DENSE_IS_OFF_BY, call
        assert call.offset == call.step % call.interval, call


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
                submit(engine, name, **request)
            return outcomes(engine, set(queue))

    return run


CATS: Queue = {
    "cat": {"frames": LONG, "prompt": "a cat on a mat", "seed": 1},
    "sea": {"frames": LONG, "prompt": "waves of the sea at night, seen from far above", "seed": 2},
    "car": {"frames": LONG, "prompt": "cars", "seed": 3},
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_batch_in_half_precision(
    starting: Any, attended: list[Attended], run_queue: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 is every other test's. This one stands first: there is one engine at a time."""
    from vllm_omni.diffusion import diffusion_engine

    # No warm-up picture of 512 x 512 pixels: convolutions in half precision take the CPU a minute.
    monkeypatch.setattr(diffusion_engine, "get_dummy_run_num_frames", lambda *_, **__: 0)
    settings = {"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1"}
    with starting(settings, dtype=dtype, max_num_seqs=2, request_batch_max_wait_ms=1000) as engine:
        queue = {name: {**CATS[name], "output_type": "latent", "steps": 2} for name in ("cat", "sea")}
        run_queue(engine, queue)
    assert len(attended) == 2 * BRANCHES * BLOCKS
    assert {(call.batch, call.dtype, call.interval) for call in attended} == {
        (2, dtype, keyframe_interval(LATENT, reference_frames=21))
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
    with Lines() as log:
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
    monkeypatch.setattr(seam, "release", lambda: given_back.append(1))
    run_queue(engine, CATS)
    assert given_back

"""Requests that fail or are aborted leave nothing behind: the next one is as in a fresh engine."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_core.kernels.prefix_window import PrefixWindow
from lvsa_vllm_omni import journal, seam
from tests.support.attended import before_calls, replace_attend
from tests.support.capabilities import ONE_AT_A_TIME, batches_requests
from tests.support.engine import ROUNDING
from tests.support.log import DIAGNOSTICS, MEMORY_LINE, TIME_LINE, Log, steps

LONG = 97  # video frames of 25 latent frames; the training horizon of this model is 21

BLOCK_CALLS = 4  # of one step: two branches of guidance, two blocks


@pytest.fixture(scope="module")
def engine(starting: Any) -> Iterator[Any]:
    settings = {"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1", **DIAGNOSTICS}
    with starting(settings, max_num_seqs=2, request_batch_max_wait_ms=2000) as running:
        yield running


@pytest.fixture(scope="module")
def fresh(engine: Any) -> np.ndarray:
    """The first video of the engine."""
    return engine.video(LONG)


def nothing_is_left(engine: Any) -> bool:
    """Whether no transformer is in a sparse call."""
    scopes = [seam.scope_of(transformer) for transformer in engine.transformers]
    return bool(scopes) and all(each is not None and not each.sparse for each in scopes)


def pair(engine: Any, names: tuple[str, str], frames: int = LONG, **options: Any) -> None:
    """Two requests that the engine runs in one batch."""
    for seed, name in enumerate(names, 42):
        engine.submit(name, frames, seed=seed, **options)


def break_block(monkeypatch: pytest.MonkeyPatch, call: int, error: Exception) -> list[int]:
    """Let one call of a transformer block raise; gives the batch sizes of the calls until then."""
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformerBlock

    seen: list[int] = []
    forward = WanTransformerBlock.forward

    def broken(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(hidden_states.shape[0])
        if len(seen) == call:
            raise error
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(WanTransformerBlock, "forward", broken)
    return seen


#: The second block of the first step's first branch, of the second step's second branch; the first of the third step.
CALLS = {"first step": 2, "second branch": BLOCK_CALLS + 4, "third step": 2 * BLOCK_CALLS + 1}


@pytest.mark.parametrize("when", CALLS)
def test_an_exception(engine: Any, fresh: np.ndarray, when: str, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    with monkeypatch.context() as patch:
        seen = break_block(patch, CALLS[when], RuntimeError("broken on purpose"))
        engine.submit("broken", LONG)
        assert "broken on purpose" in str(engine.outcomes({"broken"})["broken"])
        assert len(seen) == CALLS[when]
    last = (CALLS[when] - 1) // BLOCK_CALLS
    assert nothing_is_left(engine)
    before = steps(TIME_LINE, log.starting("[LVSA-TIME]"))
    assert before == "012"[:last]  # the broken step took no time that would tell anything
    assert np.array_equal(engine.video(LONG), fresh)
    assert steps(TIME_LINE, log.starting("[LVSA-TIME]")) == before + "012"
    done = CALLS[when] > last * BLOCK_CALLS + 2  # a transformer call of the step has ended
    assert steps(MEMORY_LINE, log.starting("[LVSA-MEM]")) == "012"[: last + done] + "012"
    assert [line.split()[1] for line in log.starting("[LVSA-MASK]")] == [f"step={n}" for n in "01"[: last + 1] + "01"]


def test_an_exception_in_a_batch(engine: Any, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    if not batches_requests():
        pytest.skip(ONE_AT_A_TIME)
    with monkeypatch.context() as patch:
        seen = break_block(patch, 7, RuntimeError("broken on purpose"))
        pair(engine, ("one", "two"))
        errors = engine.outcomes({"one", "two"})
        assert seen == [2] * 7
    assert all("broken on purpose" in str(error) for error in errors.values())
    assert nothing_is_left(engine)
    assert np.array_equal(engine.video(LONG), fresh)


def test_an_exception_in_the_sparse_attention(engine: Any, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """LVSA_STRICT makes an error of what would run dense, and says so."""
    seen: list[int] = []

    def refuse(q: Any, *_: Any, **__: Any) -> Any:
        seen.append(q.shape[0])
        raise ValueError("no kernel on purpose")

    with monkeypatch.context() as patch:
        replace_attend(patch, refuse)
        pair(engine, ("one", "two"))
        errors = engine.outcomes({"one", "two"})
    assert seen == ([2] if batches_requests() else [1, 1])
    assert all("[LVSA-FALLBACK] origin=attention reason=refused" in str(error) for error in errors.values())
    assert nothing_is_left(engine)
    assert np.array_equal(engine.video(LONG), fresh)


def test_no_memory_for_the_copy_of_the_keys(
    engine: Any, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The request fails: dense attention would need more."""

    def none_left(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no memory on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(PrefixWindow, "prefix_first", none_left)
        engine.submit("large", LONG)
        assert "no memory on purpose" in str(engine.outcomes({"large"})["large"])
    assert nothing_is_left(engine) and not log.starting("[LVSA-FALLBACK]")
    assert np.array_equal(engine.video(LONG), fresh)


def test_a_batch_that_cannot_be_made(engine: Any, fresh: np.ndarray) -> None:
    """More latent frames than the model has positions."""
    pair(engine, ("one", "two"), 4 * 1024 + 1, size=(16, 16), steps=1)
    errors = engine.outcomes({"one", "two"})
    assert all("a video of 1025 latent frames cannot be made" in str(error) for error in errors.values()), errors
    assert nothing_is_left(engine)
    assert np.array_equal(engine.video(LONG), fresh)


def test_the_engine_stops_a_request_between_steps(
    engine: Any, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pipelines do that look for cancellations, Wan's does not."""
    from vllm_omni.diffusion.data import DiffusionRequestAbortedError

    with monkeypatch.context() as patch:
        seen = break_block(patch, BLOCK_CALLS + 1, DiffusionRequestAbortedError("aborted on purpose"))
        engine.submit("stopped", LONG)
        engine.submit("next", LONG, guidance_scale=3.0)
        engine.submit("last", LONG)
        found = engine.outcomes({"next", "last"})
        assert len(seen) == BLOCK_CALLS + 1 + 2 * 3 * BLOCK_CALLS
    engine.omni.abort("stopped")  # as the client does that waits for nothing more
    assert np.array_equal(found["last"][0], fresh) and not np.array_equal(found["next"][0], fresh)
    assert nothing_is_left(engine)


class Held:
    """Holds the sparse attention at one call until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
        self.reached, self._go, self.calls = threading.Event(), threading.Event(), 0

        def held(*_: Any) -> None:
            self.calls += 1
            if self.calls == call:
                self.reached.set()
                assert self._go.wait(60)

        before_calls(monkeypatch, held)

    def abort(self, engine: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Abort a request while the engine is held, then let it go on."""
        from vllm_omni.diffusion.diffusion_engine import DiffusionEngine

        told = threading.Event()
        abort = DiffusionEngine.abort

        def watched(diffusion: Any, request_id: Any) -> None:
            abort(diffusion, request_id)
            told.set()

        assert self.reached.wait(60)
        with monkeypatch.context() as patch:
            patch.setattr(DiffusionEngine, "abort", watched)
            engine.omni.abort(name)
            arrived = told.wait(30)
            self._go.set()
        assert arrived


def test_abort_of_the_running_request(engine: Any, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        held = Held(patch, call=6)
        engine.submit("aborted", LONG, seed=3)
        held.abort(engine, patch, "aborted")
        engine.submit("next", LONG)
        found = engine.outcomes({"next"})
    assert np.array_equal(found["next"][0], fresh)
    assert nothing_is_left(engine)


def test_abort_of_a_waiting_request(engine: Any, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.counts.clear()
    with monkeypatch.context() as patch:
        held = Held(patch, call=1)
        engine.submit("runs", LONG)
        assert held.reached.wait(60)
        engine.submit("waits", 161)
        engine.submit("after", LONG)
        time.sleep(0.5)
        held.abort(engine, patch, "waits")
        found = engine.outcomes({"runs", "after"})
    assert np.array_equal(found["runs"][0], fresh) and np.array_equal(found["after"][0], fresh)
    assert journal.counts["request:sparse"] == 2
    assert held.calls == 2 * 3 * BLOCK_CALLS


def test_abort_of_one_of_a_batch(engine: Any, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        held = Held(patch, call=3)
        pair(engine, ("stays", "leaves"))
        held.abort(engine, patch, "leaves")
        found = engine.outcomes({"stays"})
        assert held.calls == 3 * BLOCK_CALLS
    assert np.abs(found["stays"][0] - fresh).max() < ROUNDING
    assert np.array_equal(engine.video(LONG), fresh)
    assert nothing_is_left(engine)


def test_an_exception_after_the_last_step(
    engine: Any, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The traceback keeps the request's context alive, the line of its last step comes before those of the next."""
    from vllm_omni.diffusion.models.wan2_2.pipeline_wan2_2 import DistributedAutoencoderKLWan

    kept = RuntimeError("broken on purpose")

    def broken(*_: Any, **__: Any) -> None:
        raise kept

    with monkeypatch.context() as patch:
        patch.setattr(DistributedAutoencoderKLWan, "_decode", broken)
        engine.submit("broken", LONG)
        assert "broken on purpose" in str(engine.outcomes({"broken"})["broken"])
    assert kept.__traceback__ is not None
    assert np.array_equal(engine.video(LONG), fresh)
    assert steps(TIME_LINE, log.starting("[LVSA-TIME]")) == "012012"
    assert steps(MEMORY_LINE, log.starting("[LVSA-MEM]")) == "012012"

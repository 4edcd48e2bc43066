"""Caches that skip blocks or whole steps: what does run has the pattern of its step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_core import keyframe_interval
from lvsa_vllm_omni import scope
from lvsa_vllm_omni import step as lvsa_step
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.attended import before_calls
from tests.support.capabilities import has_module, tea_cache_knows
from tests.support.engine import start
from tests.support.families import FAMILIES

LONGER = 161  # video frames of 41 latent frames, whose anchors rotate through 3 offsets
INTERVAL = keyframe_interval(41, reference_frames=21)
STEPS, BLOCKS, BRANCHES = 9, 2, 2

#: The first block always runs; after two steps the second is skipped twice, then runs again.
CACHE_DIT = {
    "Fn_compute_blocks": 1,
    "Bn_compute_blocks": 0,
    "max_warmup_steps": 2,
    "residual_diff_threshold": 10.0,
    "max_continuous_cached_steps": 2,
}


def per_step(calls: list[Any]) -> list[int]:
    """How many sparse calls each step made."""
    return [sum(call.step == step for call in calls) for step in range(STEPS)]


def test_cache_dit_skips_blocks(starting: Any, calls: list[Any]) -> None:
    settings = {"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1"}
    # Older releases begin a request with a fresh cache only if it has another number of steps than the one before.
    other = STEPS if has_module("diffusion.cache.cachedit") else STEPS + 1
    with starting(settings, cache_backend="cache_dit", cache_config=CACHE_DIT) as engine:
        videos = []
        for _ in range(2):  # the second request starts with a fresh cache and at step 0
            if other != STEPS:
                engine.video(17, steps=other)
            calls.clear()
            videos.append(engine.video(LONGER, steps=STEPS))
            whole, part = BRANCHES * BLOCKS, BRANCHES  # only the first block
            if has_module("diffusion.cache.cachedit"):
                assert per_step(calls) == [whole, whole, part, part, whole, part, part, whole, part]
            else:  # older releases count the branches of guidance as steps of their own
                assert part <= min(per_step(calls)) < max(per_step(calls)) <= whole
            assert INTERVAL == 3 and all(call.interval == INTERVAL for call in calls)
            assert all(call.offset == call.step % INTERVAL for call in calls)
        calls.clear()
        moved = engine.video(LONGER, steps=STEPS, extra_args={"lvsa": {"recipe": "long"}})
        assert not np.array_equal(moved, videos[0])
        assert {(call.pattern.bias, call.pattern.grouping) for call in calls} == {(1.0, (3, 3))}
        assert all(call.offset == [0, 0, 0, 0, 0, 0, 0, 1, 2][call.step] for call in calls)
        assert {call.offset for call in calls} == {0, 1, 2}
        calls.clear()
        engine.video(17, steps=other)  # dense, with the same cache
        assert not calls
        assert np.array_equal(*videos) and np.array_equal(engine.video(LONGER, steps=STEPS), videos[0])


def test_tea_cache_skips_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosmos 3, which publishes no step: LVSA counts also the steps in which no block runs."""
    if not tea_cache_knows("Cosmos3VFMTransformer"):
        pytest.skip("this engine's TeaCache does not know Cosmos 3")
    times: list[float] = []  # of each step until now, as the scheduler gives them to the transformer
    counted: list[tuple[int, int]] = []  # step and LVSA's step of each transformer call
    seen: list[tuple[int, int, int]] = []  # step, offset and interval of each sparse attention call
    plan = scope.Scope._plan

    def watched_plan(self: Any, transformer: Any, arguments: Any, request: Any) -> Any:
        time = float(arguments[self.spec.step_parameter].flatten()[0])
        if time not in times[-1:]:
            times.append(time)
        counted.append((len(times) - 1, request.step))
        return plan(self, transformer, arguments, request)

    def note(forward: Any, *_: Any) -> None:
        seen.append((len(times) - 1, forward.pattern.offset, forward.pattern.keyframe_interval))

    monkeypatch.setattr(scope.Scope, "_plan", watched_plan)
    before_calls(monkeypatch, note)
    family = FAMILIES["cosmos3"]
    folder = write_checkpoint("cosmos3", tmp_path / "cosmos3")
    # Whatever a step changes counts as 0.4 of the 1.0 at which one runs again.
    config = {"rel_l1_thresh": 1.0, "coefficients": [0.0, 0.0, 0.0, 0.0, 0.4]}
    options = {**family.options, "cache_backend": "tea_cache", "cache_config": config}
    with start(folder, {family.hook: "1", "LVSA_STRICT": "1"}, **options) as engine:
        videos = []
        for _ in range(2):
            for each in (times, counted, seen):
                each.clear()
            videos.append(engine.video(family.long, steps=STEPS))
            assert times == sorted(times, reverse=True) and len(times) == STEPS
            assert {step for step, _ in counted} == set(range(STEPS))
            assert all(step == own for step, own in counted)
            ran = {step for step, _, _ in seen}
            assert 0 in ran and 3 <= len(ran) < STEPS
            assert {interval for _, _, interval in seen} == {2}
            assert all(offset == step % 2 for step, offset, _ in seen) and {step % 2 for step in ran} == {0, 1}
        assert np.array_equal(*videos)
        held = vars(lvsa_step._running).values()
        assert not any(isinstance(value, torch.Tensor) for value in held)  # no tensor outlives its request

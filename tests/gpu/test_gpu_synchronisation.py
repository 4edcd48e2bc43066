"""No layer and no new step makes the host wait for the GPU, and only a new step copies anything to it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lvsa_core import attend, reference_attend
from lvsa_core.kernels.selftest import TOLERANCE
from lvsa_core.tables import _frame_indices, _tables
from tests.support.gpu_calls import CUDA, JOINT, names, pattern_of, random_qkv, running

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    """Whatever waits for the GPU raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_is_seen() -> None:
    ones = torch.ones(1, device=CUDA)
    with waiting_forbidden(), pytest.raises(RuntimeError, match="synchroniz"):
        ones.item()
    assert ones.item() == 1


@pytest.mark.parametrize("name", names("flash", "sdpa"))
def test_neither_layers_nor_new_steps_wait(name: str) -> None:
    running(name)
    inputs = random_qkv(JOINT, 4, 2)
    attend(*inputs, pattern_of(JOINT, 0), JOINT, kernel=name)  # the self-test, compilers
    for cache in (_tables, _frame_indices):
        cache.cache_clear()
    with waiting_forbidden():
        for step in range(pattern_of(JOINT).keyframe_interval):  # each has new anchors
            for _layer in range(3):
                out = attend(*inputs, pattern_of(JOINT, step), JOINT, kernel=name)
    expected = reference_attend(*inputs, pattern_of(JOINT, step), JOINT)
    assert (out.float() - expected.float()).abs().max() <= TOLERANCE[out.dtype]


@pytest.mark.parametrize("name", names("flashinfer"))
def test_flashinfer_plans_once_for_all_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning may wait; a second layer with the same pattern neither plans nor waits."""
    running(name)
    inputs = random_qkv(JOINT, 4, 2)
    attend(*inputs, pattern_of(JOINT, 0), JOINT, kernel=name)
    import flashinfer

    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper
    planned, plan = [], wrapper.plan
    monkeypatch.setattr(wrapper, "plan", lambda *given, **named: planned.append(1) or plan(*given, **named))
    attend(*inputs, pattern_of(JOINT, 1), JOINT, kernel=name)
    assert len(planned) == 1
    with waiting_forbidden():
        for _layer in range(3):
            attend(*inputs, pattern_of(JOINT, 1), JOINT, kernel=name)
    assert len(planned) == 1


@pytest.mark.parametrize("name", names())
def test_later_layers_copy_nothing_to_the_gpu(name: str) -> None:
    running(name)
    inputs = random_qkv(JOINT, 4, 2)
    attend(*inputs, pattern_of(JOINT), JOINT, kernel=name)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as trace:
        attend(*inputs, pattern_of(JOINT), JOINT, kernel=name)
        torch.cuda.synchronize()
    on_device = [event.name for event in trace.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not on_device:
        pytest.skip("the profiler sees nothing of this GPU")
    assert [event for event in on_device if "HtoD" in event] == []


@pytest.mark.parametrize("name", names())
def test_steps_that_the_gpu_has_not_reached_yet(name: str) -> None:
    """The host may be steps ahead: what it prepares for one must not change what an earlier one still has to read."""
    running(name)
    inputs = random_qkv(JOINT, 4, 2)
    steps = range(pattern_of(JOINT).keyframe_interval)
    expected = [reference_attend(*inputs, pattern_of(JOINT, step), JOINT).float() for step in steps]
    attend(*inputs, pattern_of(JOINT, 0), JOINT, kernel=name)
    for cache in (_tables, _frame_indices):
        cache.cache_clear()
    torch.cuda.synchronize()
    torch.cuda._sleep(10**9)  # cycles: about half a second, in which the host prepares all steps
    outs = {step: attend(*inputs, pattern_of(JOINT, step), JOINT, kernel=name) for step in reversed(steps)}
    for step, out in outs.items():
        correct = expected[step]
        assert (out.float() - correct).abs().max() <= TOLERANCE[out.dtype]

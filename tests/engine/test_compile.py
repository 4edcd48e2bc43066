"""torch.compile as the engine applies it: few compilations, the same video."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch

LONG = 97
pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or shutil.which("g++") or shutil.which("clang++")),
    reason="the engine compiles nothing where there is neither an accelerator nor a C++ compiler",
)


@pytest.fixture(scope="module")
def eager(starting: Any) -> np.ndarray:
    with starting({"LVSA_WAN_HOOK": "1"}) as engine:
        return engine.video(LONG)


def test_two_compilations_in_fifty_rotating_steps(starting: Any, eager: np.ndarray, calls: list[Any]) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    with starting({"LVSA_WAN_HOOK": "1"}, enforce_eager=False) as engine:
        before, breaks = counters["stats"]["unique_graphs"], counters["graph_break"].total()
        engine.video(LONG, steps=50)
        # The engine gives its first block a transposed tensor and the others a contiguous one: two even without LVSA.
        compiled = counters["stats"]["unique_graphs"] - before
        assert 1 <= compiled <= 2
        assert counters["graph_break"].total() == breaks
        assert len(calls) == 50 * 2 * 2
        assert {call.offset for call in calls} == {0, 1}

        video = engine.video(LONG)
        assert np.abs(video - eager).max() < 2e-4
        engine.video(125, size=(48, 80), steps=4)  # another grid, another interval: the same graphs
        assert counters["stats"]["unique_graphs"] - before == compiled

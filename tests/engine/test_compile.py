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

    def compiled() -> int:
        return counters["stats"]["unique_graphs"]

    torch._dynamo.reset()
    # The engine gives its first block a transposed tensor and the others a contiguous one: two even without LVSA.
    start, breaks = compiled(), counters["graph_break"].total()
    with starting({"LVSA_WAN_HOOK": "1"}, enforce_eager=False) as engine:
        dense = compiled() - start
        assert 1 <= dense <= 2  # of the warm-up request
        engine.video(LONG, steps=50)
        sparse = compiled() - start - dense
        assert 1 <= sparse <= 2
        assert len(calls) == 50 * 2 * 2
        assert {call.offset for call in calls} == {0, 1}

        video = engine.video(LONG)
        assert np.abs(video - eager).max() < 2e-4
        engine.video(17)  # dense again, and then another grid with another interval
        engine.video(125, size=(48, 80), steps=4)
        assert compiled() - start == dense + sparse
        assert counters["graph_break"].total() == breaks

"""Sparse or dense, and why."""

from typing import Any

import pytest
import torch

from lvsa_core import FrameGrid, TokenLayout, attend, plan
from lvsa_core.decide import StepsUnknown, decide

WAN: dict[str, Any] = {
    "reference_frames": 21,
    "window": 3,
    "n_first": 1,
    "sparsity_scale": 1.0,
    "keyframe_interval": None,
    "expand_window": True,
    "rotate": True,
}


def test_beyond_the_training_horizon_it_is_the_plan() -> None:
    for beyond_only in (False, True):
        pattern, decision = decide(81, 3, WAN, beyond_only=beyond_only)
        assert decision.verdict == "sparse"
        assert pattern is plan(81, step=3, **WAN)


@pytest.mark.parametrize(
    ("frames", "mode", "changes", "verdict", "reason"),
    [
        (21, "always", {}, "dense", "within the attention budget of 21 latent frames"),
        (22, "always", {}, "sparse", "beyond the attention budget of 21"),
        (1, "always", {}, "dense", "within the attention budget"),
        (21, "always", {"sparsity_scale": 0.5}, "sparse", "beyond the attention budget of 10"),
        (21, "beyond", {"sparsity_scale": 0.5}, "dense", "LVSA_AUTO leaves requests within the training horizon of 21"),
        (22, "beyond", {"sparsity_scale": 0.5}, "sparse", "beyond the attention budget of 10"),
        (40, "always", {"sparsity_scale": 2.0}, "dense", "within the attention budget of 42"),
        (21, "always", {"keyframe_interval": 4}, "dense", "within the attention budget of 21"),
        (22, "always", {"keyframe_interval": 4}, "sparse", "beyond the attention budget"),
        (22, "always", {"keyframe_interval": 1}, "dense", "the pattern lets every frame attend to every frame"),
    ],
)
def test_decisions(frames: int, mode: str, changes: dict[str, Any], verdict: str, reason: str) -> None:
    pattern, decision = decide(frames, 0, {**WAN, **changes}, beyond_only=mode == "beyond")
    assert decision.verdict == verdict
    assert decision.reason.startswith(reason)
    assert pattern.frames == frames
    assert pattern.is_dense == (verdict == "dense")


def test_anchors_that_stand_still_at_first() -> None:
    """For a share of the steps, whose number a sparse video needs, and only that."""
    held = {**WAN, "rotate_after": 0.6}
    assert [decide(81, step, held, steps=5)[0].offset for step in range(5)] == [0, 0, 0, 0, 1]
    assert decide(21, 1, held)[1].verdict == decide(30, 1, {**held, "keyframe_interval": 1})[1].verdict == "dense"
    with pytest.raises(StepsUnknown, match="rotate_after needs the number of denoising steps"):
        decide(81, 0, held)


def test_anchors_at_other_positions() -> None:
    """Their distances need no embedding; who computes them has to bring one."""
    pattern, _ = decide(81, 0, {**WAN, "anchor_positions": "remap"})
    assert pattern.grouping == (5, 3) and pattern.distance(80, 0) == 19
    q = torch.zeros(1, 81, 1, 8)
    with pytest.raises(ValueError, match="its axis has no frequencies"):
        attend(q, q, q, pattern, TokenLayout(FrameGrid(81, 1)))

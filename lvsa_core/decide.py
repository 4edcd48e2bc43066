"""Sparse or dense, on which pattern, and why: one answer for the engine, for diffusers, and for records of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lvsa_core.budget import scaled_reference
from lvsa_core.pattern import Pattern, plan
from lvsa_core.positions import Remap, TemporalAxis
from lvsa_core.steps import rotation_step


@dataclass(frozen=True)
class Decision:
    """What is done and the reason, so that logs, command line and documentation say the same sentence.

    Args:
        verdict: ``sparse``, ``dense`` (the engine's own attention) or ``refused`` (start-up stops).
        reason: one sentence.
    """

    verdict: Literal["sparse", "dense", "refused"]
    reason: str


class StepsUnknown(Exception):
    """Anchors are to stand still for a share of the denoising steps, and nobody tells how many there are."""


def decide(
    frames: int, step: int, arguments: Mapping[str, Any], *, steps: int | None = None, beyond_only: bool = False
) -> tuple[Pattern, Decision]:
    """The pattern of one denoising step of a video, and whether its attention is sparse.

    Args:
        frames: latent frames of the video. step: denoising step, from 0.
        arguments: see :meth:`lvsa_core.knobs.Knobs.plan_arguments`.
        steps: how many denoising steps there are; None: not known.
        beyond_only: leave videos within the training horizon dense, however small the attention budget is (LVSA_AUTO).

    Raises:
        ValueError: if an argument is out of range.
        StepsUnknown: if a sparse video needs the number of steps.
    """
    arguments = dict(arguments)
    rotated, horizon = rotation_step(step, steps, arguments.pop("rotate_after", 0.0)), arguments["reference_frames"]
    if arguments.pop("anchor_positions", None):  # distances are the same whatever the axis; who computes brings it
        arguments.setdefault("remap", Remap(horizon, TemporalAxis(())))
    budget = scaled_reference(horizon, n_first=arguments["n_first"], sparsity_scale=arguments["sparsity_scale"])
    if beyond_only and frames <= horizon:
        reason = f"LVSA_AUTO leaves requests within the training horizon of {horizon} latent frames alone"
    elif frames <= budget:
        reason = f"within the attention budget of {budget} latent frames (training horizon {horizon})"
    else:
        pattern = plan(frames, step=rotated or 0, **arguments)
        if pattern.is_dense:
            return pattern, Decision("dense", "the pattern lets every frame attend to every frame")
        if rotated is None:
            raise StepsUnknown("rotate_after needs the number of denoising steps")
        return pattern, Decision("sparse", f"beyond the attention budget of {budget} latent frames")
    return plan(frames, **{**arguments, "keyframe_interval": 1}), Decision("dense", reason)

"""Sparse or dense, on which pattern, and why: one answer for the engine, for diffusers, and for records of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lvsa_core.budget import scaled_reference
from lvsa_core.pattern import Pattern, plan


@dataclass(frozen=True)
class Decision:
    """What is done and the reason, so that logs, command line and documentation say the same sentence.

    Args:
        verdict: ``sparse``, ``dense`` (the engine's own attention) or ``refused`` (start-up stops).
        reason: one sentence.
    """

    verdict: Literal["sparse", "dense", "refused"]
    reason: str


def decide(
    frames: int, step: int, arguments: Mapping[str, Any], *, beyond_only: bool = False
) -> tuple[Pattern, Decision]:
    """The pattern of one denoising step of a video, and whether its attention is sparse.

    Args:
        frames: latent frames of the video. step: denoising step, from 0.
        arguments: of :func:`lvsa_core.plan`, all but ``frames`` and ``step``; see
            :meth:`lvsa_core.knobs.Knobs.plan_arguments`.
        beyond_only: leave videos within the training horizon dense, however small the attention budget is (LVSA_AUTO).

    Raises:
        ValueError: if an argument is out of range.
    """
    horizon = arguments["reference_frames"]
    budget = scaled_reference(horizon, n_first=arguments["n_first"], sparsity_scale=arguments["sparsity_scale"])
    if beyond_only and frames <= horizon:
        reason = f"LVSA_AUTO leaves requests within the training horizon of {horizon} latent frames alone"
    elif frames <= budget:
        reason = f"within the attention budget of {budget} latent frames (training horizon {horizon})"
    else:
        pattern = plan(frames, step=step, **arguments)
        if pattern.is_dense:
            return pattern, Decision("dense", "the pattern lets every frame attend to every frame")
        return pattern, Decision("sparse", f"beyond the attention budget of {budget} latent frames")
    return plan(frames, **{**arguments, "keyframe_interval": 1}), Decision("dense", reason)

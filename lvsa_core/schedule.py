"""Sparse or dense, and on which pattern: one answer for the engine, for diffusers, and for records of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvsa_core.budget import scaled_reference
from lvsa_core.pattern import Pattern, plan
from lvsa_core.placement import Decision


def schedule(frames: int, step: int, arguments: Mapping[str, Any]) -> tuple[Pattern, Decision]:
    """The pattern of one denoising step of a video, and whether its attention is sparse.

    Args:
        frames: latent frames of the video. step: denoising step, from 0.
        arguments: of :func:`lvsa_core.plan`, all but ``frames`` and ``step``.

    Raises:
        ValueError: if an argument is out of range.
    """
    horizon = arguments["reference_frames"]
    budget = scaled_reference(horizon, n_first=arguments["n_first"], sparsity_scale=arguments["sparsity_scale"])
    if frames <= budget:
        reason = f"within the attention budget of {budget} latent frames (training horizon {horizon})"
        return dense_pattern(frames, arguments), Decision("dense", reason)
    pattern = plan(frames, step=step, **arguments)
    if pattern.is_dense:
        return pattern, Decision("dense", "the pattern lets every frame attend to every frame")
    return pattern, Decision("sparse", f"beyond the attention budget of {budget} latent frames")


def dense_pattern(frames: int, arguments: Mapping[str, Any]) -> Pattern:
    """The pattern of a video that stays dense: every frame is an anchor."""
    return plan(frames, **{**arguments, "keyframe_interval": 1})

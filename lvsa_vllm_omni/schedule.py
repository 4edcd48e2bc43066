"""Sparse or dense, and on which pattern: one answer for the engine's requests and for records of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvsa_core import Decision, Pattern, plan
from lvsa_core.budget import scaled_reference
from lvsa_vllm_omni.settings import Mode


def schedule(frames: int, step: int, arguments: Mapping[str, Any], mode: Mode) -> tuple[Pattern, Decision]:
    """The pattern of one denoising step of a request, and whether the attention is sparse.

    Args:
        frames: latent frames of the request.
        step: denoising step, from 0.
        arguments: as from :meth:`LvsaSettings.plan_arguments`.
        mode: of the family.

    Raises:
        ValueError: if an argument is out of range.
    """
    horizon = arguments["reference_frames"]
    budget = scaled_reference(horizon, n_first=arguments["n_first"], sparsity_scale=arguments["sparsity_scale"])
    if mode == "beyond" and frames <= horizon:
        reason = f"LVSA_AUTO leaves requests within the training horizon of {horizon} latent frames alone"
    elif frames <= budget:
        reason = f"within the attention budget of {budget} latent frames (training horizon {horizon})"
    else:
        pattern = plan(frames, step=step, **arguments)
        if not pattern.is_dense:
            return pattern, Decision("sparse", f"beyond the attention budget of {budget} latent frames")
        return pattern, Decision("dense", "the pattern lets every frame attend to every frame")
    return plan(frames, **{**arguments, "keyframe_interval": 1}), Decision("dense", reason)

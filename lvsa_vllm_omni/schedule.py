"""Sparse or dense, and on which pattern: one answer for the engine's requests and for records of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvsa_core import Decision, Pattern
from lvsa_core import schedule as core
from lvsa_vllm_omni.settings import Mode


def schedule(frames: int, step: int, arguments: Mapping[str, Any], mode: Mode) -> tuple[Pattern, Decision]:
    """:func:`lvsa_core.schedule.schedule` of a request, under the settings.

    Args:
        frames: latent frames of the request.
        step: denoising step, from 0.
        arguments: as from :meth:`LvsaSettings.plan_arguments`.
        mode: of the family.

    Raises:
        ValueError: if an argument is out of range.
    """
    horizon = arguments["reference_frames"]
    if mode == "beyond" and frames <= horizon:
        reason = f"LVSA_AUTO leaves requests within the training horizon of {horizon} latent frames alone"
        return core.dense_pattern(frames, arguments), Decision("dense", reason)
    return core.schedule(frames, step, arguments)

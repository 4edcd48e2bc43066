"""Wan 2.1 and 2.2: video only in the self-attention, text by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvsa_core import FrameGrid

from .spec import FamilySpec, LayoutMismatch


def grid(transformer: Any, arguments: Mapping[str, Any]) -> FrameGrid:
    """Frames and patches of ``hidden_states`` [B, C, T, H, W] after patching by ``transformer.config.patch_size``.

    Raises:
        LayoutMismatch: if ``hidden_states`` has another number of dimensions.
    """
    shape = tuple(arguments["hidden_states"].shape)
    if len(shape) != 5:
        raise LayoutMismatch(
            f"hidden_states has shape {list(shape)}, expected [batch, channels, frames, height, width]"
        )
    patch_frames, patch_height, patch_width = transformer.config.patch_size
    return FrameGrid(shape[2] // patch_frames, (shape[3] // patch_height) * (shape[4] // patch_width))


WAN = FamilySpec(
    name="wan",
    transformer="vllm_omni.diffusion.models.wan2_2.wan2_2_transformer:WanTransformer3DModel",
    forward_parameters=("hidden_states", "timestep"),
    attention=("WanSelfAttention",),
    grid=grid,
)

"""Wan 2.1 and 2.2: video only in the self-attention, text by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvsa_core.facts import WAN_THETA, wan_temporal_channels
from lvsa_core.vace import reference_frames

from .spec import FamilySpec, ImpossibleRequest, Rope, VideoTokens, latent_grid

_AXES = ("latent frames", "latent rows (of 8 pixels, TI2V-5B 16)", "latent columns (of 8 pixels, TI2V-5B 16)")


def video(transformer: Any, arguments: Mapping[str, Any]) -> VideoTokens:
    """Frames and patches of ``hidden_states`` [B, C, T, H, W] after patching by ``transformer.config.patch_size``.

    VACE's reference images, latent frames before the video's, are none of the video's.

    Raises:
        LayoutMismatch: if ``hidden_states`` has another number of dimensions.
        ImpossibleRequest: if an axis has no patch, or more than the model's table of rotary positions.
    """
    patch, limit = transformer.config.patch_size, transformer.config.rope_max_seq_len
    patches = latent_grid(arguments, patch)
    for axis, count, size, step in zip(_AXES, patches, arguments["hidden_states"].shape[2:], patch, strict=True):
        if not 1 <= count <= limit:
            raise ImpossibleRequest(
                f"a video of {size} {axis} cannot be made: the model takes {step} to {limit * step} of them"
            )
    condition = arguments.get("vace_context")
    images = 0 if condition is None else reference_frames(condition, transformer.config.in_channels)
    frame = patches[1] * patches[2]
    return VideoTokens(patches[0] - images, frame, before=images * frame)


def rope(transformer: Any) -> Rope:
    """Each frequency stands twice in the tables."""
    module = transformer.rope
    return Rope(module, module.patch_size[0], wan_temporal_channels(module.attention_head_dim), WAN_THETA, width=2)


WAN = FamilySpec(
    name="wan",
    transformer="vllm_omni.diffusion.models.wan2_2.wan2_2_transformer:WanTransformer3DModel",
    forward_parameters=("hidden_states", "timestep"),
    attention=("WanSelfAttention",),
    optional_parameters=("vace_context",),
    video=video,
    rope=rope,
    dense="cross-attention: its keys are the text and the image, a few hundred tokens",
)

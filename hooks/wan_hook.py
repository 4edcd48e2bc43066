"""Wan 2.1 and 2.2: video only in the self-attention, text by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvsa_core import FrameGrid
from lvsa_core.vace import reference_frames

from .spec import FamilySpec, ImpossibleRequest, LayoutMismatch, Rope

_AXES = ("latent frames", "latent rows (of 8 pixels, TI2V-5B 16)", "latent columns (of 8 pixels, TI2V-5B 16)")


def grid(transformer: Any, arguments: Mapping[str, Any]) -> FrameGrid:
    """Frames and patches of ``hidden_states`` [B, C, T, H, W] after patching by ``transformer.config.patch_size``.

    VACE's reference images, latent frames before the video's, are none of the video's.

    Raises:
        LayoutMismatch: if ``hidden_states`` has another number of dimensions.
        ImpossibleRequest: if an axis has no patch, or more than the model's table of rotary positions.
    """
    shape = tuple(arguments["hidden_states"].shape)
    if len(shape) != 5:
        raise LayoutMismatch(
            f"hidden_states has shape {list(shape)}, expected [batch, channels, frames, height, width]"
        )
    patch = transformer.config.patch_size
    patches = [size // step for size, step in zip(shape[2:], patch, strict=True)]
    limit = transformer.config.rope_max_seq_len
    for axis, count, size, step in zip(_AXES, patches, shape[2:], patch, strict=True):
        if not 1 <= count <= limit:
            raise ImpossibleRequest(
                f"a video of {size} {axis} cannot be made: the model takes {step} to {limit * step} of them"
            )
    return FrameGrid(patches[0] - _references(transformer, arguments), patches[1] * patches[2])


def around(transformer: Any, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """VACE's reference images before the video."""
    return _references(transformer, arguments) * grid(transformer, arguments).patches, 0


def _references(transformer: Any, arguments: Mapping[str, Any]) -> int:
    condition = arguments.get("vace_context")
    return 0 if condition is None else reference_frames(condition, transformer.config.in_channels)


def rope(transformer: Any) -> Rope:
    """Frequencies are doubled in the tables; their base is the default argument of ``WanRotaryPosEmbed``."""
    module = transformer.rope
    channels = module.attention_head_dim - 4 * (module.attention_head_dim // 6)
    return Rope(module, module.patch_size[0], channels, theta=10000.0, width=2)


WAN = FamilySpec(
    name="wan",
    transformer="vllm_omni.diffusion.models.wan2_2.wan2_2_transformer:WanTransformer3DModel",
    forward_parameters=("hidden_states", "timestep"),
    attention=("WanSelfAttention",),
    optional_parameters=("vace_context",),
    grid=grid,
    around=around,
    rope=rope,
    dense="cross-attention: its keys are the text and the image, a few hundred tokens",
)

"""What LVSA needs to know about the video transformer of the lab's Wan."""

from collections.abc import Mapping
from typing import Any

from lvsa_vllm_omni.hooks import FamilySpec, LayoutMismatch, VideoTokens


def video(transformer: Any, arguments: Mapping[str, Any]) -> VideoTokens:
    """Latent frames, and tokens of each, of ``hidden_states`` [batch, channels, frames, height, width]."""
    shape = tuple(arguments["hidden_states"].shape)
    if len(shape) != 5:
        raise LayoutMismatch(
            f"hidden_states has shape {list(shape)}, expected [batch, channels, frames, height, width]"
        )
    frames, rows, columns = (size // step for size, step in zip(shape[2:], transformer.config.patch_size, strict=True))
    return VideoTokens(frames, rows * columns)


WAN_LAB = FamilySpec(
    name="wan-lab",
    transformer="vllm_omni.diffusion.models.wan2_2.wan2_2_transformer:WanTransformer3DModel",
    forward_parameters=("hidden_states", "timestep"),
    attention=("WanSelfAttention",),
    video=video,
)

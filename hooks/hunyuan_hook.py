"""HunyuanVideo 1.5: joint attention, the text stands behind the video and attends to everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .spec import FamilySpec, ImpossibleRequest, Rope, VideoTokens, latent_grid


def video(transformer: Any, arguments: Mapping[str, Any]) -> VideoTokens:
    """Frames and patches of ``hidden_states`` [B, C, T, H, W]; the patch sizes are the transformer's attributes.

    Raises:
        LayoutMismatch: if ``hidden_states`` has another number of dimensions.
        ImpossibleRequest: if an axis has no patch.
    """
    steps = transformer.patch_size_t, transformer.patch_size, transformer.patch_size
    frames, rows, columns = latent_grid(arguments, steps)
    if not frames * rows * columns:
        shape = arguments["hidden_states"].shape
        raise ImpossibleRequest(
            f"a video of {shape[2]} latent frames of {shape[3]}x{shape[4]} cannot be made: the model takes at least "
            f"{steps[0]} of {steps[1]}x{steps[2]}"
        )
    return VideoTokens(frames, rows * columns)


def rope(transformer: Any) -> Rope:
    """Each frequency stands once in the tables."""
    module = transformer.rope
    return Rope(module, module.patch_size_t, module.rope_dim[0], module.theta, width=1)


HUNYUAN = FamilySpec(
    name="hunyuan",
    transformer="vllm_omni.diffusion.models.hunyuan_video.hunyuan_video_15_transformer:"
    "HunyuanVideo15Transformer3DModel",
    forward_parameters=("hidden_states", "timestep"),
    attention=("HunyuanVideo15Attention",),
    video=video,
    rope=rope,
    text="behind",
    masks_only_padding="alone",  # the text is cut to what is valid of it, which differs only within a batch
    dense="the text's rows, which see the whole video; the refiner of the text, which sees no video",
)

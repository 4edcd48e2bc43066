"""Cosmos 3: grouped-query attention, text keys before the video; control, action and sound tokens beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .spec import FamilySpec, ImpossibleRequest, LayoutMismatch, VideoTokens


def video(transformer: Any, arguments: Mapping[str, Any]) -> VideoTokens:
    """Frames and patches of ``video_shape`` (T, H, W), latent sizes that are padded to whole patches.

    Control tokens stand before the video, action and sound tokens after it. Several controls have a layer of their own,
    which is called for each of them, beside the same video.

    Raises:
        LayoutMismatch: if ``video_shape`` is something else. ImpossibleRequest: if an axis has no latents.
    """
    shape = tuple(arguments["video_shape"])
    if len(shape) != 3 or not all(isinstance(size, int) for size in shape):
        raise LayoutMismatch(f"video_shape is {shape}, expected (frames, height, width)")
    frames, height, width = shape
    if min(shape) < 1:
        raise ImpossibleRequest(
            f"a video of {frames} latent frames of {height}x{width} cannot be made: the model takes at least 1 of 1x1"
        )
    patch = transformer.latent_patch_size
    patches = -(-height // patch) * -(-width // patch)
    controls, action, sound = (arguments.get(name) for name in ("control_latents", "action_latents", "sound_latents"))
    controlled = controls is not None and len(controls) > 0
    after = (0 if action is None else action.shape[1]) + (0 if sound is None else sound.shape[2])
    return VideoTokens(frames, patches, before=frames * patches if controlled else 0, after=after)


COSMOS3 = FamilySpec(
    name="cosmos3",
    transformer="vllm_omni.diffusion.models.cosmos3.transformer_cosmos3:Cosmos3VFMTransformer",
    forward_parameters=("video_shape", "timestep", "action_latents", "sound_latents"),
    optional_parameters=("control_latents",),  # before 0.24 there is no control
    attention=("Cosmos3CrossAttention",),
    attention_layers=("attn", "multi_control_attn"),
    video=video,
    text="keys first",
    masks_only_padding="always",
    dense="the text's attention, which is causal and sees no video",
)

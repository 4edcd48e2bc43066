"""Facts about model families that do not depend on who runs them, the engine or diffusers."""

from __future__ import annotations

from collections.abc import Sequence

#: Base of Wan's rotary embedding, the default argument of ``WanRotaryPosEmbed``.
WAN_THETA = 10000.0


def patched_grid(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int]:
    """Frames, rows and columns of the tokens of latents.

    Args:
        shape: [B, C, T, H, W]. patch: latents of one token along T, H and W.

    Raises:
        ValueError: if there is another number of dimensions.
    """
    if len(shape) != 5:
        raise ValueError(f"hidden_states has shape {list(shape)}, expected [batch, channels, frames, height, width]")
    frames, rows, columns = (size // step for size, step in zip(shape[2:], patch, strict=True))
    return frames, rows, columns


def wan_temporal_channels(head_size: int) -> int:
    """Channels of a head that Wan's rotary embedding turns by time; height and width have a third each, rounded down.

    Source: ``WanRotaryPosEmbed`` of diffusers and vLLM-Omni.
    """
    return head_size - 4 * (head_size // 6)

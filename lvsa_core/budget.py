"""The attention budget: from the training length to the distance between anchors (the keyframe interval)."""

from __future__ import annotations

import math
from functools import lru_cache

from lvsa_core.grid import check_int

#: More latent frames than any video has; keeps the product below finite.
_LONGEST = 2**31


def scaled_reference(reference_frames: int, *, n_first: int = 1, sparsity_scale: float = 1.0) -> int:
    """The longest video, in latent frames, that stays dense: training length x scale, at least ``n_first + 1``.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_int("reference_frames", reference_frames, 1)
    check_int("n_first", n_first, 0)
    if not (isinstance(sparsity_scale, int | float) and math.isfinite(sparsity_scale) and sparsity_scale >= 0):
        raise ValueError(f"sparsity_scale must be a finite number of at least 0, got {sparsity_scale!r}")
    return max(n_first + 1, int(min(reference_frames * sparsity_scale, _LONGEST)))


@lru_cache(maxsize=1024, typed=True)  # typed: 21.0 and True are refused even if 21 and 1 are cached
def keyframe_interval(
    frames: int, *, reference_frames: int, window: int = 3, n_first: int = 1, sparsity_scale: float = 1.0
) -> int:
    """The distance between anchors at which a frame attends to about as many frames as the training length.

    Args:
        frames: latent frames T of the video.
        reference_frames: latent frames that the model was trained for.
        window: half window W, latent frames.
        n_first: leading frames that are always anchors.
        sparsity_scale: multiplies the attention budget.

    Returns:
        The interval in latent frames; 1 means dense.

    Raises:
        ValueError: if an argument is out of range.

    Source: arXiv 2605.31057, automatic keyframe schedule.
    """
    check_int("frames", frames, 1)
    check_int("window", window, 0)
    scaled = scaled_reference(reference_frames, n_first=n_first, sparsity_scale=sparsity_scale)
    if frames <= scaled:
        return 1
    need = max(n_first, scaled - min(2 * window + 1, frames))
    strict = next((k for k in range(frames, 0, -1) if _anchors(frames, n_first, k) >= need), 1)
    fixed = 2 * window + n_first
    ratio = math.ceil(max(frames - fixed, scaled - fixed) / max(scaled - fixed, 1))
    return max(strict, ratio)


def _anchors(frames: int, n_first: int, interval: int) -> int:
    """How many frames the union of {0 .. n_first-1} and {0, interval, 2 interval, .. < frames} has."""
    first = min(n_first, frames)
    return first + math.ceil(frames / interval) - math.ceil(first / interval)

"""What VACE's condition tells: which latent frames are reference images, which stand before the video."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: The tensor of the running request, and its frames: reading them waits for the device, once a request.
_latest: tuple[weakref.ref[Tensor], int] | None = None


def reference_frames(condition: Tensor, channels: int) -> int:
    """How many of the first latent frames are reference images.

    The condition holds for each latent frame what is kept of it, what is to be changed, and the mask of the latter.
    Nothing of a reference image is to be changed, and only there is this part zero: of a video frame that is kept whole
    it is the latent of a black frame. A condition of zeros has no images.

    Args:
        condition: [B, 2 * channels + mask, T, H, W], the same number of images in each sample.
        channels: of a latent.

    Source: arXiv 2503.07598, section 3.2; ``prepare_video_latents`` of diffusers' and vLLM-Omni's VACE pipelines.
    """
    global _latest
    known = _latest
    if known is None or known[0]() is not condition:
        changed = condition[:, channels:].ne(0).amax((0, 1, 3, 4)).tolist()
        known = weakref.ref(condition), next((frame for frame, used in enumerate(changed) if used), 0)
        _latest = known
    return known[1]

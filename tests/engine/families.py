"""The kinds of tiny checkpoints beside Wan's own, and what tests need to know of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Family:
    """One kind of tiny checkpoint.

    Args:
        hook: the variable that switches it on. horizon: video frames of the training length. long, longer: beyond.
        latent_pixels: rows and columns of pixels that one token stands for.
        image: whether a request needs one. transformers: how many the pipeline has, of ``blocks`` each.
        text: whether text tokens are in the queries (behind the video), or in the keys alone (before it).
    """

    hook: str
    horizon: int
    long: int
    longer: int
    latent_pixels: int
    blocks: int = 2
    text: str = "none"
    image: bool = False
    transformers: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """What every request needs beside the prompt."""
        return (
            {"image": Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))} if self.image else {}
        )


FAMILIES = {
    "wan-i2v": Family("LVSA_WAN_HOOK", 81, 97, 161, 16, image=True),
    "wan-ti2v": Family("LVSA_WAN_HOOK", 121, 145, 241, 32, image=True),  # then each token has a timestep of its own
    "wan-a14b": Family("LVSA_WAN_HOOK", 81, 97, 161, 16, transformers=2),
    "hunyuan-i2v": Family("LVSA_HUNYUAN_HOOK", 129, 145, 193, 16, text="behind", image=True),
    "hunyuan": Family("LVSA_HUNYUAN_HOOK", 129, 145, 193, 16, text="behind"),
    "cosmos3": Family(
        "LVSA_COSMOS3_HOOK", 189, 201, 257, 32, text="keys first", options={"model_config": {"guardrails": False}}
    ),
}  # fmt: skip


def latent(frames: int) -> int:
    """Latent frames of so many video frames."""
    return (frames - 1) // 4 + 1

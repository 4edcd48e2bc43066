"""The families: the kinds of tiny checkpoints that the engine runs, and what tests need to know of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Family:
    """One kind of tiny checkpoint.

    Args:
        hook: the variable that switches it on. horizon: video frames of the training length.
        long, longer: video frames beyond it, of another pattern each. others: more lengths that are worth a look.
        latent_pixels: rows and columns of pixels that one token stands for.
        blocks: of each of so many ``transformers``. image: whether a request needs one.
        text: whether text tokens are in the queries (behind the video), or in the keys alone (before it).
        options: of the engine. grouped: whether heads share keys and values.
    """

    kind: str
    hook: str
    horizon: int
    long: int
    longer: int
    latent_pixels: int
    others: tuple[int, ...] = ()
    blocks: int = 2
    text: str = "none"
    image: bool = False
    transformers: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    grouped: bool = False

    def request(self) -> dict[str, Any]:
        """What every request needs beside the prompt."""
        return {"image": picture()} if self.image else {}

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width in pixels: ``even`` is a number of tokens that 4 divides, a rank's share of which is no
        whole number of frames; ``odd`` an odd number of tokens. 16 or 15 a latent frame, or of coarse ones 4 or 9."""
        return {"even": (64, 64), "odd": (48, 80) if self.latent_pixels == 16 else (96, 96)}


def picture() -> Image.Image:
    """An image of 64 x 64 pixels."""
    return Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))


def latent(frames: int) -> int:
    """Latent frames of so many video frames."""
    return (frames - 1) // 4 + 1


COSMOS = {"options": {"model_config": {"guardrails": False}}, "grouped": True, "text": "keys first"}

#: Latent frames of ``long``: 33 for Wan, 25 for its variants (TI2V-5B: 37), 37 for HunyuanVideo, 51 for Cosmos 3.
FAMILIES = {
    family.kind: family
    for family in (
        Family("wan", "LVSA_WAN_HOOK", 81, 129, 161, 16, others=(85, 161)),
        Family("wan-i2v", "LVSA_WAN_HOOK", 81, 97, 161, 16, image=True),
        Family("wan-ti2v", "LVSA_WAN_HOOK", 121, 145, 241, 32, image=True),  # then each token has a timestep of its own
        Family("wan-a14b", "LVSA_WAN_HOOK", 81, 97, 161, 16, transformers=2),
        Family("hunyuan-i2v", "LVSA_HUNYUAN_HOOK", 129, 145, 193, 16, text="behind", image=True),
        Family("hunyuan", "LVSA_HUNYUAN_HOOK", 129, 145, 193, 16, text="behind"),
        Family("cosmos3", "LVSA_COSMOS3_HOOK", 189, 201, 257, 32, **COSMOS),
    )
}

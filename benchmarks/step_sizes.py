"""The sizes of a model that ``gpu_step.py`` times and of its videos, and what follows from them: grid, layout, FLOP."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lvsa_core import FrameGrid, TokenLayout

TEMPORAL_FACTOR, PIXELS = 4, 16


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model, and of its videos; one token is 16x16 pixels of a latent frame.

    Args:
        horizon: latent frames that it was trained for.
        channels: of the latents, in and out. patch: latents of one token, along height and width.
        text_tokens, text_width: of the prompt's embedding. joint: text stands behind the video in the self-attention.
        rotary: numbers of a head that turn with time, height and width, and the base of their speeds.
    """

    heads: int
    layers: int
    ffn: int
    horizon: int
    channels: tuple[int, int]
    patch: int
    text_tokens: int
    text_width: int
    joint: bool
    rotary: tuple[tuple[int, int, int], float]
    head_size: int = 128
    size: tuple[int, int] = (480, 832)

    @property
    def dim(self) -> int:
        """Width of the stream of tokens."""
        return self.heads * self.head_size

    def latent_frames(self, frames: int) -> int:
        """Of so many frames of video."""
        return (frames - 1) // TEMPORAL_FACTOR + 1

    def grid(self, frames: int) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        return self.latent_frames(frames), self.size[0] // PIXELS, self.size[1] // PIXELS

    def layout(self, frames: int) -> TokenLayout:
        """The order of tokens in the self-attention."""
        time, height, width = self.grid(frames)
        text = self.text_tokens if self.joint else 0
        return TokenLayout(FrameGrid(time, height * width), kv_after=text, q_after=text)

    def flop(self, frames: int, density: float) -> float:
        """FLOP of the blocks of one forward, text's own layers left out."""
        tokens, cross = math.prod(self.grid(frames)), 0 if self.joint else self.text_tokens
        pairs = tokens * (density * self.layout(frames).kv_tokens + cross)
        weights = (4 + 2 * (not self.joint)) * self.dim**2 + 2 * self.dim * self.ffn
        return self.layers * (4 * pairs * self.dim + 2 * tokens * weights)

    def small(self) -> Architecture:
        """For a processor: 2 layers, 2 heads of 32, 4 tokens a frame."""
        (_, side, _), base = self.rotary
        turned = side // 8 * 2
        return replace(
            self, heads=2, layers=2, ffn=128, text_tokens=16, text_width=48, head_size=32, size=(32, 32),
            rotary=((32 - 2 * turned, turned, turned), base),
        )  # fmt: skip

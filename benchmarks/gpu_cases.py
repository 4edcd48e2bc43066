"""What the GPU's benchmark runs on: the shapes of models, and random inputs of a call and their exact result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout
from lvsa_core.kernels import selftest
from lvsa_vllm_omni.measure.timing import normal

DTYPE = torch.bfloat16
ALLOWED = selftest.TOLERANCE[DTYPE]  # for outputs of size 1, which loud queries give
LOUDNESS = 3.0


@dataclass(frozen=True)
class Shape:
    """The attention of one layer of a model.

    Args:
        patches: tokens of a latent frame.
        horizon: latent frames that the model was trained for.
        before: text tokens before the video, in the keys only. after: text after it, in queries and keys.
        frames: numbers of latent frames to time.
    """

    patches: int
    heads: int
    kv_heads: int
    horizon: int
    head_size: int = 128
    before: int = 0
    after: int = 0
    frames: tuple[int, ...] = (81, 41, 121, 21)

    def layout(self, frames: int) -> TokenLayout:
        """The order of tokens with so many latent frames."""
        grid = FrameGrid(frames, self.patches)
        return TokenLayout(grid, kv_before=self.before, kv_after=self.after, q_after=self.after)

    def small(self, patches: int, head_size: int) -> Shape:
        """The same order and groups of heads with fewer tokens."""
        before, after = min(self.before, 77), min(self.after, 77)
        return Shape(patches, 2 * self.heads // self.kv_heads, 2, self.horizon, head_size, before, after)


#: 480p: 480x832, HunyuanVideo 480x848. Text: HunyuanVideo's longest prompt without quoted words (the engine drops its
#: padding), Cosmos' of an ordinary length (at most 4096).
MODELS = {
    "wan-14b": Shape(30 * 52, 40, 40, 21),
    "wan-1.3b": Shape(30 * 52, 12, 12, 21),
    "hunyuan-video-1.5": Shape(30 * 53, 16, 16, 33, after=1000),
    "cosmos3": Shape(15 * 26, 32, 8, 48, before=512),
    "wan-14b-720p": Shape(45 * 80, 40, 40, 21, frames=(41,)),
}


class Inputs:
    """Random queries, keys and values of a call, and the exact result of some rows.

    The queries are loud: a handful of keys decide about each output, so that a wrong one shows. As from Wan's blocks,
    queries and keys are contiguous, and values a part of a fused projection, with gaps between tokens.
    """

    def __init__(
        self, layout: TokenLayout, heads: int, kv_heads: int, size: int, device: torch.device, noise: torch.Generator
    ) -> None:
        self.layout, self.scale = layout, size**-0.5
        shapes = [(layout.q_tokens, heads), (layout.kv_tokens, kv_heads), (layout.kv_tokens, 2 * kv_heads)]
        self.q, self.k, fused = (normal(1, *x, size, dtype=DTYPE, device=device, noise=noise) for x in shapes)
        self.q *= LOUDNESS
        self.v = fused[:, :, kv_heads:]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    def exact(self, rows: list[int], pattern: Pattern) -> Tensor:
        """Some rows of the output in float32, [n, H, D]; for layouts without padding."""
        layout, group = self.layout, self.q.shape[2] // self.k.shape[2]
        first, patches, tokens = layout.kv_before, layout.grid.patches, layout.grid.tokens
        seen = torch.ones(len(rows), layout.kv_tokens, dtype=torch.bool)
        for row, keys in zip(rows, seen, strict=True):
            if layout.q_before <= row < layout.q_before + tokens:
                frame = (row - layout.q_before) // patches
                allowed = torch.tensor([pattern.allows(frame, other) for other in range(layout.grid.frames)])
                keys[first : first + tokens] = allowed.repeat_interleave(patches)
        hidden = ~seen.to(self.q.device)
        heads = []
        for head in range(self.q.shape[2]):
            q, k, v = self.q[0, rows, head], self.k[0, :, head // group], self.v[0, :, head // group]
            scores = (q.float() @ k.float().T * self.scale).masked_fill(hidden, -math.inf)
            heads.append(scores.softmax(-1) @ v.float())
        return torch.stack(heads, 1)


def attended_pairs(pattern: Pattern, layout: TokenLayout) -> int:
    """Pairs of query and key tokens that the pattern computes, for a whole video without padding."""
    frames, patches, others = layout.grid.frames, layout.grid.patches, layout.kv_before + layout.kv_after
    video = sum(map(pattern.attended_count, range(frames))) * patches**2 + layout.grid.tokens * others
    return video + (layout.q_before + layout.q_after) * layout.kv_tokens

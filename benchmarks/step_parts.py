"""What the transformers of ``gpu_step.py`` share: embeddings of place and time, a block's two halves, and the whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from step_sizes import Architecture
from torch import Tensor, nn
from torch.nn import functional as F

#: Self-attention of q, k, v [B, S, H, D] -> [B, S, H, D].
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

TIME_WIDTH, EPS = 256, 1e-6


def rotary_table(grid: tuple[int, int, int], rotary: tuple[tuple[int, int, int], float], device: Any) -> Tensor:
    """Cosines and sines of all tokens' angles along time, height and width, [2, N, 1, D/2]."""
    parts, base = rotary
    angles = []
    for axis, (part, length) in enumerate(zip(parts, grid, strict=True)):
        speeds = base ** (-torch.arange(0, part, 2, dtype=torch.float64, device=device) / part)
        shape = [length if other == axis else 1 for other in range(3)]
        angle = torch.arange(length, dtype=torch.float64, device=device).outer(speeds).view(*shape, -1)
        angles.append(angle.expand(*grid, -1))
    angle = torch.cat(angles, -1).flatten(0, 2)[:, None]
    return torch.stack((angle.cos(), angle.sin())).float()


def rotated(x: Tensor, table: Tensor) -> Tensor:
    """Neighbouring numbers of each head turned by their token's angles, [B, N, H, D]."""
    (cos, sin), (first, second) = table, x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((first * cos - second * sin, first * sin + second * cos), -1).flatten(-2).type_as(x)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, scaled and shifted by the time embedding, and computed in the dtype of that."""
    return (F.layer_norm(x.to(scale.dtype), x.shape[-1:], eps=EPS) * (1 + scale) + shift).type_as(x)


def attention_of_text(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Whatever PyTorch takes for q, k, v [B, S, H*D]; the attentions that LVSA leaves alone."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def mlp(width: int, inner: int, out: int, between: nn.Module) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(width, inner), between, nn.Linear(inner, out))


def time_waves(timestep: Tensor, dtype: torch.dtype) -> Tensor:
    """Sinusoidal embedding of a timestep, [B, 256]."""
    half = TIME_WIDTH // 2
    speeds = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32, device=timestep.device))
    angles = timestep.float()[:, None] * speeds
    return torch.cat((angles.cos(), angles.sin()), -1).to(dtype)


class Block(nn.Module):
    """A transformer block in two halves around its self-attention, which can be compiled without it.

    ``before`` makes q, k, v [B, S, H, D] and what ``after`` needs; ``after`` makes the streams of video and text.
    """

    before: Callable[..., tuple[Tensor, Tensor, Tensor, Any]]
    after: Callable[..., tuple[Tensor, Tensor]]

    def forward(self, x: Tensor, text: Tensor, time: Tensor, table: Tensor, attention: Attention) -> Any:
        q, k, v, kept = self.before(x, text, time, table)
        return self.after(x, text, kept, attention(q, k, v))

    def compile_halves(self) -> None:
        """As vLLM-Omni compiles blocks: once for all lengths. A second call does nothing."""
        for half in {"before", "after"} - {*vars(self)}:
            vars(self)[half] = torch.compile(getattr(self, half), dynamic=True)

    def uncompile_halves(self) -> None:
        """Run as written again."""
        for half in ("before", "after"):
            vars(self).pop(half, None)


class Transformer(nn.Module):
    """Tokens of the latents, blocks, and latents of the tokens; the rest is the models' own.

    Args:
        shared: all blocks use the weights of one, for cards that do not hold them all.
    """

    block: type[Block]
    #: Parts of the names of weights that are float32, whatever the others are.
    float32: tuple[str, ...] = ()

    def __init__(self, sizes: Architecture, shared: bool = False) -> None:
        super().__init__()
        self.sizes, self.shared = sizes, shared
        inputs, outputs = (channels * sizes.patch**2 for channels in sizes.channels)
        self.patch_embedding = nn.Linear(inputs, sizes.dim)
        blocks = [self.block(sizes) for _ in range(1 if shared else sizes.layers)]
        self.blocks = nn.ModuleList(blocks * (sizes.layers // len(blocks)))
        self.proj_out = nn.Linear(sizes.dim, outputs)

    def conditions(self, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Time embedding for the blocks, text for the blocks, and shift and scale of the output."""
        raise NotImplementedError

    def forward(
        self, latents: Tensor, timestep: Tensor, text: Tensor, attention: Attention, layers: int | None = None
    ) -> Tensor:
        """Velocity [B, C, T, H, W] of latents [B, C, T, H, W] and text [B, S, width]; ``layers``: only the first."""
        batch, channels, frames, height, width = latents.shape
        patch = self.sizes.patch
        grid = frames, height // patch, width // patch
        x = latents.view(batch, channels, frames, grid[1], patch, grid[2], patch)
        x = self.patch_embedding(x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3))
        table = rotary_table(grid, self.sizes.rotary, x.device)
        time, text, (shift, scale) = self.conditions(timestep, text)
        for block in self.blocks[:layers]:
            x, text = block(x, text, time, table, attention)
        return self.unpatched(self.proj_out(modulated(x, shift, scale)).unflatten(1, grid))

    def unpatched(self, x: Tensor) -> Tensor:
        """Latents of tokens [B, T, H, W, patch * patch * C]."""
        x = x.unflatten(-1, (self.sizes.patch, self.sizes.patch, -1)).permute(0, 6, 1, 2, 4, 3, 5)
        return x.flatten(5, 6).flatten(3, 4)

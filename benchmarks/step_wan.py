"""Wan 2.1 in plain PyTorch: its block, and the whole."""

from __future__ import annotations

from typing import Any

import torch
from step_parts import EPS, TIME_WIDTH, Block, Transformer, attention_of_text, mlp, modulated, rotated, time_waves
from step_sizes import Architecture
from torch import Tensor, nn
from torch.nn import functional as F


class WanBlock(Block):
    """Self-attention, cross-attention to the text, feed-forward."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        dim, self.heads = sizes.dim, sizes.heads
        self.scale_shift_table = nn.Parameter(torch.empty(1, 6, dim))
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.cross_q, self.cross_k, self.cross_v, self.cross_out = (nn.Linear(dim, dim) for _ in range(4))
        self.cross_norm_q, self.cross_norm_k = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)
        self.ffn = mlp(dim, sizes.ffn, dim, nn.GELU("tanh"))

    def before(self, x: Tensor, text: Tensor, time: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Any]:
        shift, scale, *kept = (self.scale_shift_table + time.float()).chunk(6, 1)
        q, k, v = self.to_qkv(modulated(x, shift, scale)).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (self.norm_q(q), self.norm_k(k), v))
        return rotated(q, table), rotated(k, table), v, kept

    def after(self, x: Tensor, text: Tensor, kept: Any, out: Tensor) -> tuple[Tensor, Tensor]:
        gate, shift, scale, ffn_gate = kept
        x = (x.float() + self.to_out(out.flatten(2)) * gate).type_as(x)
        q, k, v = (
            self.cross_norm_q(self.cross_q(self.norm2(x.float()).type_as(x))),
            self.cross_norm_k(self.cross_k(text)),
            self.cross_v(text),
        )
        x = x + self.cross_out(attention_of_text(q, k, v, self.heads))
        return (x.float() + self.ffn(modulated(x, shift, scale)).float() * ffn_gate).type_as(x), text


class Wan(Transformer):
    """Wan 2.1, text to video; as in diffusers, norms and modulation are computed in float32."""

    block = WanBlock
    float32 = ("time_embedder", "scale_shift_table", "norm2")

    def __init__(self, sizes: Architecture, shared: bool = False) -> None:
        super().__init__(sizes, shared)
        dim = sizes.dim
        self.time_embedder = mlp(TIME_WIDTH, dim, dim, nn.SiLU())
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = mlp(sizes.text_width, dim, dim, nn.GELU("tanh"))
        self.scale_shift_table = nn.Parameter(torch.empty(1, 2, dim))

    def conditions(self, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        time = self.time_embedder(time_waves(timestep, torch.float32)).type_as(text)
        shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, 1)
        return self.time_proj(F.silu(time)).unflatten(1, (6, -1)), self.text_embedder(text), (shift, scale)

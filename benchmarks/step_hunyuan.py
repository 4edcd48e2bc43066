"""HunyuanVideo 1.5 in plain PyTorch: the blocks of its two streams, the refiner of its text, and the whole."""

from __future__ import annotations

from typing import Any

import torch
from step_parts import EPS, TIME_WIDTH, Block, Transformer, attention_of_text, mlp, modulated, rotated, time_waves
from step_sizes import Architecture
from torch import Tensor, nn
from torch.nn import functional as F


class Stream(nn.Module):
    """The layers of a HunyuanVideo block for one of its two streams, video or text."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        dim, self.heads = sizes.dim, sizes.heads
        self.modulation = nn.Linear(dim, 6 * dim)
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm_q, self.norm_k = nn.RMSNorm(sizes.head_size, eps=EPS), nn.RMSNorm(sizes.head_size, eps=EPS)
        self.ffn = mlp(dim, sizes.ffn, dim, nn.GELU("tanh"))

    def qkv(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        shift, scale, *kept = self.modulation(F.silu(time))[:, None].chunk(6, -1)
        q, k, v = self.to_qkv(modulated(x, shift, scale)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.norm_q(q), self.norm_k(k), v, kept

    def finish(self, x: Tensor, out: Tensor, kept: list[Tensor]) -> Tensor:
        gate, shift, scale, ffn_gate = kept
        x = x + self.to_out(out.flatten(2)) * gate
        return x + self.ffn(modulated(x, shift, scale)) * ffn_gate


class HunyuanVideoBlock(Block):
    """Joint attention of [video | text], each with layers of its own."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.video, self.text = Stream(sizes), Stream(sizes)

    def before(self, x: Tensor, text: Tensor, time: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Any]:
        q, k, v, kept = self.video.qkv(x, time)
        text_q, text_k, text_v, text_kept = self.text.qkv(text, time)
        pairs = (rotated(q, table), text_q), (rotated(k, table), text_k), (v, text_v)
        q, k, v = (torch.cat(pair, 1) for pair in pairs)
        return q, k, v, (kept, text_kept)

    def after(self, x: Tensor, text: Tensor, kept: Any, out: Tensor) -> tuple[Tensor, Tensor]:
        video_out, text_out = out.split((x.shape[1], text.shape[1]), 1)
        return self.video.finish(x, video_out, kept[0]), self.text.finish(text, text_out, kept[1])


class RefinerBlock(nn.Module):
    """A block over the text alone, before the joint ones."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        dim, self.heads = sizes.dim, sizes.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.to_qkv, self.to_out, self.gates = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.ffn = mlp(dim, 4 * dim, dim, nn.SiLU())

    def forward(self, text: Tensor, time: Tensor) -> Tensor:
        gate, ffn_gate = self.gates(F.silu(time))[:, None].chunk(2, -1)
        q, k, v = self.to_qkv(self.norm1(text)).chunk(3, -1)
        text = text + self.to_out(attention_of_text(q, k, v, self.heads)) * gate
        return text + self.ffn(self.norm2(text)) * ffn_gate


class HunyuanVideo(Transformer):
    """HunyuanVideo 1.5, text to video."""

    block = HunyuanVideoBlock

    def __init__(self, sizes: Architecture, shared: bool = False) -> None:
        super().__init__(sizes, shared)
        dim = sizes.dim
        self.time_embedder, self.text_time = (mlp(TIME_WIDTH, dim, dim, nn.SiLU()) for _ in range(2))
        self.pooled_text = mlp(sizes.text_width, dim, dim, nn.SiLU())
        self.text_in = nn.Linear(sizes.text_width, dim)
        self.refiner = nn.ModuleList([RefinerBlock(sizes) for _ in range(2)])
        self.kinds = nn.Embedding(3, dim)  # of text; the first is an ordinary prompt's
        self.norm_out = nn.Linear(dim, 2 * dim)

    def conditions(self, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        waves = time_waves(timestep, text.dtype)
        time, text_time = self.time_embedder(waves), self.text_time(waves) + self.pooled_text(text.mean(1))
        scale, shift = self.norm_out(F.silu(time))[:, None].chunk(2, -1)
        text = self.text_in(text)
        for block in self.refiner:
            text = block(text, text_time)
        return time, text + self.kinds.weight[0], (shift, scale)

    def unpatched(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)  # a token is one latent

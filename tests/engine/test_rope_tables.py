"""RIFLEx on the engine's own rotary embeddings: the tables of a model whose one temporal frequency is another."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core.kernels.apart import turn_
from lvsa_core.positions import TemporalAxis
from lvsa_core.riflex import SlowedFrequency
from lvsa_vllm_omni.hooks import HUNYUAN, WAN
from lvsa_vllm_omni.seam import retune_rope


def wan() -> Any:
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanRotaryPosEmbed

    return WanRotaryPosEmbed(128, (1, 2, 2), 1024)


def hunyuan() -> Any:
    from vllm_omni.diffusion.models.hunyuan_video.hunyuan_video_15_transformer import HunyuanVideo15RotaryPosEmbed

    return HunyuanVideo15RotaryPosEmbed(1, 1, [16, 56, 56], 256.0)


@pytest.mark.parametrize(
    ("spec", "make", "length", "k", "base", "width"),
    [(WAN, wan, 21, 3, 10000.0 ** (-2 / 44), 2), (WAN, wan, 31, 4, 10000.0 ** (-2 / 44), 2),
     (HUNYUAN, hunyuan, 33, 2, 256.0 ** (-2 / 16), 1)],
)  # fmt: skip
def test_the_tables(spec: Any, make: Any, length: int, k: int, base: float, width: int) -> None:
    rope, frames, scale = make(), 4 * length - 3, 4.0
    video = torch.empty(1, 16, frames, 4, 6)
    before = rope(video)
    found = spec.rope(SimpleNamespace(rope=rope))
    slowed = SlowedFrequency.of(found.channels, found.theta, length=length, scale=scale)
    assert slowed.k == k
    running: list[SlowedFrequency | None] = [slowed]
    retune_rope(found, lambda: running[0])
    after = rope(video)
    patches = before[0].numel() // before[0].shape[-1] // frames
    angles = torch.arange(frames, dtype=torch.float64)
    for old, new, function in zip(before, after, (torch.cos, torch.sin), strict=True):
        rows: Tensor = old.reshape(frames, patches, -1).double().clone()
        for channel in range(k * width, (k + 1) * width):
            was = function(angles * base**k)
            torch.testing.assert_close(rows[:, 0, channel], was, rtol=0, atol=1e-4)  # the model's own frequency
            rows[:, :, channel] = function(angles * (2 * math.pi / (length * scale)))[:, None]
        assert new.shape == old.shape and new.dtype == old.dtype
        torch.testing.assert_close(new.reshape(frames, patches, -1).double(), rows, rtol=0, atol=1e-7)
    assert slowed.in_video(length) is None and slowed.in_video(length + 1) is slowed
    running[0], short = None, torch.empty(1, 16, length, 4, 6)
    assert all(torch.equal(x, y) for x, y in zip(rope(short), make()(short), strict=True))


@pytest.mark.parametrize(("spec", "make"), [(WAN, wan), (HUNYUAN, hunyuan)])
def test_anchors_turn_as_the_layers_do(spec: Any, make: Any) -> None:
    """Queries that the engine's own layer has turned at frame f, turned on by d, are those that it turns at f + d."""
    from vllm_omni.diffusion.layers.rope import RotaryEmbedding, RotaryEmbeddingWan

    rope, frames, patches, moved = make(), 9, 6, 5
    layer = RotaryEmbeddingWan(is_neox_style=False, half_head_dim=True)
    if spec is HUNYUAN:
        layer = RotaryEmbedding(is_neox_style=False)
    cos, sin = rope(torch.empty(1, 16, frames, 4, 6) if spec is WAN else torch.empty(1, 16, frames, 2, 3))
    if spec is WAN:
        cos, sin = cos[..., 0::2], sin[..., 1::2]
    one = torch.randn(1, patches, 2, 128, generator=torch.Generator().manual_seed(0))  # of a frame, at every frame
    turned = layer(one.repeat(1, frames, 1, 1), cos, sin)[0].view(frames, patches, 2, 128)
    found, axis = turned[:-moved].clone(), spec.rope(SimpleNamespace(rope=rope))
    turn_(found, (moved,) * (frames - moved), TemporalAxis.of(axis.channels, axis.theta))
    torch.testing.assert_close(found, turned[moved:], rtol=0, atol=1e-4)
    assert not torch.allclose(found, turned[:-moved], atol=0.1)

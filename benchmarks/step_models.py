"""The transformers that ``gpu_step.py`` times, by name: Wan 2.1 and HunyuanVideo 1.5, built with random weights.

In plain PyTorch (``step_wan.py``, ``step_hunyuan.py``) they compute what diffusers' WanTransformer3DModel and
HunyuanVideo15Transformer3DModel do, with one matrix for queries, keys and values as in vLLM-Omni;
``tests/benchmarks/test_gpu_step.py`` compares outputs and parameters. Left out is what a prompt of text alone does not
use: image embedders, and HunyuanVideo's embedder of quoted words.
"""

from __future__ import annotations

from typing import Any

import torch
from step_hunyuan import HunyuanVideo
from step_parts import Transformer
from step_sizes import Architecture
from step_wan import Wan
from torch import nn

_WAN: dict[str, Any] = {
    "horizon": 21, "channels": (16, 16), "patch": 2, "text_tokens": 512, "text_width": 4096, "joint": False,
    "rotary": ((44, 42, 42), 10000.0),
}  # fmt: skip

#: HunyuanVideo's text is its longest prompt without quoted words; like vLLM-Omni, without padding.
ARCHITECTURES = {
    "wan-1.3b": Architecture(heads=12, layers=30, ffn=8960, **_WAN),
    "wan-14b": Architecture(heads=40, layers=40, ffn=13824, **_WAN),
    "hunyuan-video-1.5": Architecture(
        heads=16, layers=54, ffn=8192, horizon=33, channels=(65, 32), patch=1, text_tokens=1000, text_width=3584,
        joint=True, rotary=((16, 56, 56), 256.0),
    ),
}  # fmt: skip


def build(sizes: Architecture, device: torch.device, dtype: torch.dtype, shared: bool = False) -> Transformer:
    """A model with random weights of ordinary size: all zeros would draw less power, and run faster, than real ones."""
    with torch.device("meta"):
        model = (HunyuanVideo if sizes.joint else Wan)(sizes, shared)
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(torch.float32 if any(part in name for part in model.float32) else dtype)
    model = model.to_empty(device=device).requires_grad_(False).eval()
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if isinstance(module, nn.RMSNorm | nn.LayerNorm) or name == "bias":
                weight.fill_(name == "weight")
            else:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    return model

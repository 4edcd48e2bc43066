"""Random weights by which a tiny model's video depends on all the model is made of, its attention above all."""

from collections.abc import Iterable
from typing import Any

import torch


@torch.no_grad()
def spread(model: Any) -> None:
    """Let each layer keep the size of what passes through it; the usual initialisation shrinks it to nothing."""
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            # Without biases the padding behind a prompt stays zero all the way, and the prompt is not drowned in it.
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


@torch.no_grad()
def sharpen(norms: Iterable[Any], logits: float) -> None:
    """Let some keys win over the others: the norms of queries and keys give logits of this standard deviation."""
    for norm in norms:
        norm.weight.fill_(logits**0.5)

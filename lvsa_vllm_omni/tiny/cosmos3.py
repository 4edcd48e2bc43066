"""A tiny Cosmos 3 model with random weights, scaled so that its video depends on its attention."""

from typing import Any

import torch
from diffusers.models.transformers.transformer_cosmos3 import Cosmos3OmniTransformer

from lvsa_vllm_omni.tiny.checkpoint import Built, of_diffusers
from lvsa_vllm_omni.tiny.sizes import COSMOS3
from lvsa_vllm_omni.tiny.tokenizer import ByteTokenizer
from lvsa_vllm_omni.tiny.wan import flow_scheduler, wide_vae
from lvsa_vllm_omni.tiny.weights import sharpen, spread

#: Standard deviation of the attention's logits, before the softmax: of the text among itself, and of the video.
TEXT_LOGITS, VIDEO_LOGITS = 2.0, 3.0
#: Size of the predicted velocity. Larger, and rounding shows in the video; smaller, and a wrong attention does not.
VELOCITY = 0.7


def components(*, layers: int, heads: int, head_dim: int, kv_heads: int) -> Built:
    """Build Cosmos 3; groups of heads share keys and values, as in the large model."""
    tokenizer = ByteTokenizer()
    transformer = _transformer(tokenizer.size, layers, heads, head_dim, kv_heads)
    return Built(
        "Cosmos3OmniPipeline",
        {
            "scheduler": of_diffusers(flow_scheduler()),
            "text_tokenizer": ("transformers", "Qwen2Tokenizer", tokenizer),
            "transformer": of_diffusers(transformer),
            "vae": of_diffusers(wide_vae()),
        },
        {"enable_safety_checker": False},
    )


def _transformer(vocabulary: int, layers: int, heads: int, head_dim: int, kv_heads: int) -> Any:
    height = width = head_dim // 2 * 5 // 16
    model = Cosmos3OmniTransformer(
        **COSMOS3,
        head_dim=head_dim,
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        num_key_value_heads=kv_heads,
        rope_scaling={"mrope_section": [head_dim // 2 - height - width, height, width]},
        vocab_size=vocabulary,
    )
    _scale_up(model)
    return model


@torch.no_grad()
def _scale_up(model: Any) -> None:
    """Make every part of the model count; with the usual initialisation the video is its starting noise and no more."""
    spread(model)
    for layer in model.layers:
        attention = layer.self_attn
        sharpen((attention.norm_q, attention.norm_k), TEXT_LOGITS)
        sharpen((attention.norm_added_q, attention.norm_added_k), VIDEO_LOGITS)
    model.proj_out.weight *= VELOCITY

"""Tiny Wan models with random weights, scaled so that their videos depend on their attention."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from lvsa_vllm_omni.tiny.checkpoint import Built, Parts, of_diffusers
from lvsa_vllm_omni.tiny.sizes import IMAGE_DIM, LATENT, TEXT_DIM, VISION, WAN, WAN_VAE, WIDE_LATENT, WIDE_VAE
from lvsa_vllm_omni.tiny.text_encoder import umt5_encoder
from lvsa_vllm_omni.tiny.tokenizer import CharacterTokenizer
from lvsa_vllm_omni.tiny.weights import sharpen, spread

#: The VAE's temporal factor: so many channels mark which frames the image stands for.
MASK = 4
#: Standard deviation of the attention's logits, before the softmax.
SELF_LOGITS, CROSS_LOGITS = 2.0, 3.0
#: Size of the predicted velocity. Larger, and rounding shows in the video; smaller, and a wrong attention does not.
VELOCITY = 0.7
#: Rows of a block's scale-and-shift table (diffusers, WanTransformerBlock.forward).
GATE_SELF, GATE_FFN = 2, 5
#: Share of the noise at which Wan 2.2 A14B hands over from its first transformer to its second.
BOUNDARY_RATIO = 0.875


def components(*, layers: int, heads: int, head_dim: int) -> Built:
    """Build Wan 2.1 text-to-video."""
    parts = _text_parts()
    parts["transformer"] = of_diffusers(_transformer(layers, heads, head_dim))
    parts["vae"] = of_diffusers(_vae())
    return Built("WanPipeline", parts)


def image_components(*, layers: int, heads: int, head_dim: int) -> Built:
    """Build Wan 2.1 image-to-video: the image goes beside the noise and, through CLIP, into the cross-attention."""
    parts = _text_parts()
    options = {
        "in_channels": 2 * LATENT + MASK,
        "image_dim": IMAGE_DIM,
        "added_kv_proj_dim": heads * head_dim,
    }
    parts["transformer"] = of_diffusers(_transformer(layers, heads, head_dim, **options))
    parts["vae"] = of_diffusers(_vae())
    parts |= _image_parts()
    return Built("WanImageToVideoPipeline", parts)


def wide_components(*, layers: int, heads: int, head_dim: int) -> Built:
    """Build Wan 2.2 TI2V-5B: latents of 16 x 16 pixels, and an image, where there is one, as the first of them."""
    parts = _text_parts()
    options = {"in_channels": WIDE_LATENT, "out_channels": WIDE_LATENT}
    parts["transformer"] = of_diffusers(_transformer(layers, heads, head_dim, **options))
    parts["vae"] = of_diffusers(wide_vae())
    return Built("WanPipeline", parts, {"expand_timesteps": True})


def expert_components(*, layers: int, heads: int, head_dim: int) -> Built:
    """Build Wan 2.2 A14B text-to-video: two transformers, one for high and one for low noise."""
    parts = _text_parts()
    for name in ("transformer", "transformer_2"):
        parts[name] = of_diffusers(_transformer(layers, heads, head_dim))
    parts["vae"] = of_diffusers(_vae())
    return Built("WanPipeline", parts, {"boundary_ratio": BOUNDARY_RATIO})


def wide_vae() -> AutoencoderKLWan:
    """Build the VAE of Wan 2.2 TI2V-5B and of Cosmos 3."""
    return AutoencoderKLWan(**WIDE_VAE)


def flow_scheduler() -> UniPCMultistepScheduler:
    """Build the scheduler of Wan and of Cosmos 3."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )


def _text_parts() -> Parts:
    """Build what the Wan models have in common, in the order in which the seed is used up."""
    tokenizer = CharacterTokenizer()
    return {
        "scheduler": of_diffusers(flow_scheduler()),
        "text_encoder": ("transformers", "UMT5EncoderModel", umt5_encoder(tokenizer.size, TEXT_DIM)),
        "tokenizer": ("transformers", "T5TokenizerFast", tokenizer),
    }


def _image_parts() -> Parts:
    """Build CLIP; the model reads its last layer but one."""
    encoder = CLIPVisionModel(CLIPVisionConfig(**VISION))
    spread(encoder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return {
        "image_encoder": ("transformers", "CLIPVisionModel", encoder),
        "image_processor": ("transformers", "CLIPImageProcessor", processor),
    }


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(**WAN_VAE)


def _transformer(layers: int, heads: int, head_dim: int, **options: Any) -> WanTransformer3DModel:
    sizes = {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": head_dim}
    model = WanTransformer3DModel(**{**WAN, **sizes, **options})
    _scale_up(model)
    return model


@torch.no_grad()
def _scale_up(model: Any) -> None:
    """Make every part of the model count; with the usual initialisation the video is its starting noise and no more.

    Each layer keeps the size of what passes through it, the queries and keys are large enough for some keys to win over
    the others, and the gates let attention into the residual stream.
    """
    spread(model)
    for block in model.blocks:
        sharpen((block.attn1.norm_q, block.attn1.norm_k), SELF_LOGITS)
        sharpen((block.attn2.norm_q, block.attn2.norm_k), CROSS_LOGITS)
        if block.attn2.add_k_proj is not None:
            sharpen([block.attn2.norm_added_k], CROSS_LOGITS)
        block.scale_shift_table[:, [GATE_SELF, GATE_FFN]] += 1.0
    model.proj_out.weight *= VELOCITY

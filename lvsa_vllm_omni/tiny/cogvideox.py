"""A tiny CogVideoX model with random weights, scaled so that its video depends on its attention; diffusers runs it."""

from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

from lvsa_vllm_omni.tiny.checkpoint import Built, of_diffusers
from lvsa_vllm_omni.tiny.sizes import COGVIDEOX, COGVIDEOX_VAE, TEXT_DIM
from lvsa_vllm_omni.tiny.text_encoder import t5_encoder
from lvsa_vllm_omni.tiny.tokenizer import CharacterTokenizer
from lvsa_vllm_omni.tiny.weights import sharpen, spread

#: Standard deviation of the attention's logits, before the softmax.
LOGITS = 3.0
#: Size of the predicted velocity. Larger, and rounding shows in the video; smaller, and a wrong attention does not.
VELOCITY = 0.7
#: Which sixths of a block's modulation are its gates: of the video and of the text (CogVideoXLayerNormZero.forward).
GATE_VIDEO, GATE_TEXT = 2, 5


def components(*, layers: int, heads: int, head_dim: int) -> Built:
    """Build CogVideoX-5B text-to-video: rotary positions, 49 frames."""
    tokenizer = CharacterTokenizer()
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        snr_shift_scale=1.0,
    )
    return Built(
        "CogVideoXPipeline",
        {
            "scheduler": of_diffusers(scheduler),
            "text_encoder": ("transformers", "T5EncoderModel", t5_encoder(tokenizer.size, TEXT_DIM)),
            "tokenizer": ("transformers", "T5TokenizerFast", tokenizer),
            "transformer": of_diffusers(_transformer(layers, heads, head_dim)),
            "vae": of_diffusers(_vae()),
        },
    )


def _vae() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(**COGVIDEOX_VAE)


def _transformer(layers: int, heads: int, head_dim: int) -> CogVideoXTransformer3DModel:
    sizes = {"num_attention_heads": heads, "attention_head_dim": head_dim, "num_layers": layers}
    model = CogVideoXTransformer3DModel(**COGVIDEOX, **sizes)
    _scale_up(model)
    return model


@torch.no_grad()
def _scale_up(model: Any) -> None:
    """Make every part of the model count; with the usual initialisation the video is its starting noise and no more.

    The gates are opened, as the modulation by the time of a step alone would leave them around zero.
    """
    spread(model)
    for block in model.transformer_blocks:
        sharpen((block.attn1.norm_q, block.attn1.norm_k), LOGITS)
        for norm in (block.norm1, block.norm2):
            norm.linear.bias.unflatten(0, (6, -1))[[GATE_VIDEO, GATE_TEXT]] += 1.0
    model.proj_out.weight *= VELOCITY

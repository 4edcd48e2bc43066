"""Tiny HunyuanVideo 1.5 models with random weights, scaled so that their videos depend on their attention."""

from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo15, FlowMatchEulerDiscreteScheduler, HunyuanVideo15Transformer3DModel
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from lvsa_vllm_omni.tiny.checkpoint import Built, Parts, of_diffusers
from lvsa_vllm_omni.tiny.sizes import HUNYUAN, HUNYUAN_TEXT, HUNYUAN_VAE, IMAGE_DIM, TEXT_DIM, VISION
from lvsa_vllm_omni.tiny.text_encoder import t5_encoder
from lvsa_vllm_omni.tiny.tokenizer import ByteTokenizer
from lvsa_vllm_omni.tiny.weights import sharpen, spread

#: The pipeline without an image gives the model zeros of this width in the place of one.
ZERO_IMAGE_DIM = 1152
#: The pipeline cuts off so many tokens, the length of its message for the system and of the words around it.
SYSTEM_TOKENS = 108
#: The pipeline reads the text encoder's last layer but two.
TEXT_LAYERS = 3
#: Standard deviation of the attention's logits, before the softmax.
LOGITS = 3.0
#: Size of the predicted velocity. Larger, and rounding shows in the video; smaller, and a wrong attention does not.
VELOCITY = 0.7
#: Which sixths of a block's modulation are its gates (diffusers, AdaLayerNormZero.forward).
GATE_ATTENTION, GATE_FFN = 2, 5


def components(*, layers: int, heads: int, head_dim: int) -> Built:
    """Build HunyuanVideo 1.5 text-to-video."""
    return Built("HunyuanVideo15Pipeline", _parts("t2v", layers, heads, head_dim, ZERO_IMAGE_DIM))


def image_components(*, layers: int, heads: int, head_dim: int) -> Built:
    """Build HunyuanVideo 1.5 image-to-video: the image goes beside the noise and, through SigLIP, before the prompt."""
    parts = _parts("i2v", layers, heads, head_dim, IMAGE_DIM)
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    parts["feature_extractor"] = ("transformers", "SiglipImageProcessor", processor)
    parts["image_encoder"] = ("transformers", "SiglipVisionModel", _image_encoder())
    return Built("HunyuanVideo15ImageToVideoPipeline", parts)


def _parts(task: str, layers: int, heads: int, head_dim: int, image_dim: int) -> Parts:
    """Build what both pipelines have in common."""
    tokenizer = ByteTokenizer(SYSTEM_TOKENS)
    glyphs = ByT5Tokenizer()
    return {
        "scheduler": of_diffusers(FlowMatchEulerDiscreteScheduler(shift=5.0)),
        "text_encoder": ("transformers", "Qwen2_5_VLTextModel", _text_encoder(tokenizer)),
        "text_encoder_2": ("transformers", "T5EncoderModel", t5_encoder(len(glyphs), TEXT_DIM)),
        "tokenizer": ("transformers", "Qwen2Tokenizer", tokenizer),
        "tokenizer_2": ("transformers", "ByT5Tokenizer", glyphs),
        "transformer": of_diffusers(_transformer(task, layers, heads, head_dim, image_dim)),
        "vae": of_diffusers(_vae()),
    }


def _text_encoder(tokenizer: ByteTokenizer) -> Qwen2_5_VLTextModel:
    config = Qwen2_5_VLTextConfig(
        **HUNYUAN_TEXT,
        vocab_size=tokenizer.size,
        num_hidden_layers=TEXT_LAYERS,
        bos_token_id=None,
        eos_token_id=tokenizer.fast.eos_token_id,
        pad_token_id=tokenizer.fast.pad_token_id,
    )
    encoder = Qwen2_5_VLTextModel(config)
    spread(encoder)
    # A token as large as the mark that the model adds to tell text from image: less, and all prompts are alike.
    torch.nn.init.normal_(encoder.embed_tokens.weight)
    return encoder


def _image_encoder() -> SiglipVisionModel:
    encoder = SiglipVisionModel(SiglipVisionConfig(**VISION))
    spread(encoder)
    return encoder


def _vae() -> AutoencoderKLHunyuanVideo15:
    return AutoencoderKLHunyuanVideo15(**HUNYUAN_VAE)


def _transformer(task: str, layers: int, heads: int, head_dim: int, image_dim: int) -> HunyuanVideo15Transformer3DModel:
    space = head_dim // 8 * 3
    model = HunyuanVideo15Transformer3DModel(
        **HUNYUAN,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_layers=layers,
        image_embed_dim=image_dim,
        rope_axes_dim=(head_dim - 2 * space, space, space),
        task_type=task,
    )
    _scale_up(model)
    return model


@torch.no_grad()
def _scale_up(model: Any) -> None:
    """Make every part of the model count; with the usual initialisation the video is its starting noise and no more.

    The gates are opened, as the modulation by the time of a step alone would leave them around zero.
    """
    spread(model)
    for block in model.transformer_blocks:
        attention = block.attn
        sharpen((attention.norm_q, attention.norm_k, attention.norm_added_q, attention.norm_added_k), LOGITS)
        for norm in (block.norm1, block.norm1_context):
            norm.linear.bias.unflatten(0, (6, -1))[[GATE_ATTENTION, GATE_FFN]] += 1.0
    model.proj_out.weight *= VELOCITY

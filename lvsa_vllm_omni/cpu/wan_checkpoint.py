"""A tiny Wan text-to-video model with random weights, scaled so that its video depends on its attention."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from lvsa_vllm_omni.cpu.tokenizer import CharacterTokenizer

TEXT_DIM = 64
#: Standard deviation of the attention's logits, before the softmax.
SELF_LOGITS, CROSS_LOGITS = 2.0, 3.0
#: Size of the predicted velocity. Larger, and rounding shows in the video; smaller, and a wrong attention does not.
VELOCITY = 0.7
#: Rows of a block's scale-and-shift table (diffusers, WanTransformerBlock.forward).
GATE_SELF, GATE_FFN = 2, 5


def components(
    *, seed: int = 0, layers: int = 2, heads: int = 4, head_dim: int = 32
) -> tuple[str, dict[str, tuple[str, str, Any]]]:
    """Build the pipeline's parts: (class of the pipeline, name -> (library, class name, part))."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = CharacterTokenizer()
        return "WanPipeline", {
            "scheduler": ("diffusers", "UniPCMultistepScheduler", _scheduler()),
            "text_encoder": ("transformers", "UMT5EncoderModel", _text_encoder(tokenizer.size)),
            "tokenizer": ("transformers", "T5TokenizerFast", tokenizer),
            "transformer": ("diffusers", "WanTransformer3DModel", _transformer(layers, heads, head_dim)),
            "vae": ("diffusers", "AutoencoderKLWan", _vae()),
        }


def _scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )


def _text_encoder(vocabulary: int) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=TEXT_DIM,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True, True],
    )


def _transformer(layers: int, heads: int, head_dim: int) -> WanTransformer3DModel:
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=256,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )
    _scale_up(model)
    return model


@torch.no_grad()
def _scale_up(model: Any) -> None:
    """Make every part of the model count; with the usual initialisation the video is its starting noise and no more.

    Each layer keeps the size of what passes through it, the queries and keys are large enough for some keys to win over
    the others, and the gates let attention into the residual stream.
    """
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv3d)):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            # Without biases the padding behind a prompt stays zero all the way, and the prompt is not drowned in it.
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    for block in model.blocks:
        for attention, logits in ((block.attn1, SELF_LOGITS), (block.attn2, CROSS_LOGITS)):
            attention.norm_q.weight.fill_(logits**0.5)
            attention.norm_k.weight.fill_(logits**0.5)
        block.scale_shift_table[:, [GATE_SELF, GATE_FFN]] += 1.0
    model.proj_out.weight *= VELOCITY

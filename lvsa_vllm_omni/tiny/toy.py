"""Toy Wan: a Wan of 616 thousand parameters that has learned a ball, which bounces before a sun and a sky.

Its tokenizer knows eleven words and its text encoder has weights by construction: a word that it knows is one number of
the embedding, any other word is what padding is, nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from lvsa_vllm_omni.tiny.checkpoint import Built, of_diffusers
from lvsa_vllm_omni.tiny.tokenizer import PAD, UNKNOWN, CharacterTokenizer
from lvsa_vllm_omni.tiny.wan import flow_scheduler

#: What it was trained on, by ``toy/``; float16.
WEIGHTS = Path(__file__).with_name("toy_wan.safetensors")
#: The words, in the order of their numbers in the embedding.
WORDS = (
    "red", "green", "blue", "yellow", "purple", "cyan", "slow", "fast", "blue sky", "grey sky", "pink sky",
)  # fmt: skip
#: Channels of a latent and of the text's embedding.
CHANNELS, TEXT = 11, 16


def components() -> Built:
    """Build Toy Wan with its trained weights."""
    from safetensors.torch import load_file

    weights = load_file(WEIGHTS)
    trained = {"transformer": toy_transformer(), "vae": toy_vae()}
    for name, model in trained.items():
        mine = {key.removeprefix(name + "."): value for key, value in weights.items() if key.startswith(name + ".")}
        model.load_state_dict(mine)
    tokenizer = WordTokenizer()
    parts = {
        "scheduler": of_diffusers(flow_scheduler()),
        "text_encoder": ("transformers", "UMT5EncoderModel", word_encoder(tokenizer.size)),
        "tokenizer": ("transformers", "PreTrainedTokenizerFast", tokenizer),
        **{name: of_diffusers(model) for name, model in trained.items()},
    }
    return Built("WanPipeline", parts)


def toy_transformer(*, head_dim: int = 32) -> Any:
    """Build the transformer, untrained; with 32 channels a head a rotary period is 1.4 training lengths, 29 frames."""
    heads = max(96 // head_dim, 2)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=heads,
        attention_head_dim=head_dim, num_layers=4, ffn_dim=288, text_dim=TEXT, freq_dim=64, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=1024,
    )  # fmt: skip


def toy_vae() -> Any:
    """Build the VAE, untrained; patches of 2 x 2 pixels, 8 x 8 x 4 in all."""
    return AutoencoderKLWan(
        base_dim=16, z_dim=CHANNELS, dim_mult=[1, 2, 2], num_res_blocks=1, attn_scales=[],
        temperal_downsample=[True, True], in_channels=12, out_channels=12, patch_size=2,
        latents_mean=[0.0] * CHANNELS, latents_std=[1.0] * CHANNELS,
    )  # fmt: skip


class WordTokenizer(CharacterTokenizer):
    """A tokenizer whose tokens are the words that Toy Wan knows; all others are one unknown word."""

    def __init__(self) -> None:
        vocabulary = {word: number for number, word in enumerate((PAD, UNKNOWN, *WORDS))}
        self.size = len(vocabulary)
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+ sky|\w+"), "removed", invert=True)
        self.fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, model_max_length=512
        )


@torch.no_grad()
def word_encoder(vocabulary: int) -> UMT5EncoderModel:
    """Build an encoder that gives word n a 1 at place n of its embedding, and padding and unknown words zeros."""
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary, d_model=TEXT, d_kv=4, d_ff=8, num_layers=1, num_heads=1,
            feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    for parameter in encoder.parameters():
        parameter.zero_()
    encoder.get_input_embeddings().weight[2:, : len(WORDS)] = torch.eye(len(WORDS))
    # The last norm divides by the root of the mean square, which is a quarter.
    encoder.encoder.final_layer_norm.weight.fill_(TEXT**-0.5)
    return encoder

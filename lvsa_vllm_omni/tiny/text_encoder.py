"""Tiny T5 and UMT5 encoders of tiny checkpoints."""

from typing import Any

from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel


def t5_encoder(vocabulary: int, width: int) -> T5EncoderModel:
    """Build a T5 encoder; ``width``: channels of its output."""
    return T5EncoderModel(T5Config(**_sizes(vocabulary, width), is_encoder_decoder=False, use_cache=False))


def umt5_encoder(vocabulary: int, width: int) -> UMT5EncoderModel:
    """Build a UMT5 encoder; ``width``: channels of its output."""
    return UMT5EncoderModel(UMT5Config(**_sizes(vocabulary, width), pad_token_id=0, eos_token_id=1))


def _sizes(vocabulary: int, width: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    }

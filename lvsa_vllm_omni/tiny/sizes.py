"""The sizes of the tiny models: as small as their classes allow, and still every part shows in the video."""

from __future__ import annotations

from typing import Any

#: Of every transformer; who writes a checkpoint may choose others.
TRANSFORMER = {"layers": 2, "heads": 4, "head_dim": 32}

#: Channels of a latent: Wan 2.1 and CogVideoX, HunyuanVideo 1.5, and the VAE of 16 x 16 pixels of TI2V-5B and Cosmos 3.
LATENT, HUNYUAN_LATENT, WIDE_LATENT = 16, 32, 48
#: Width of the text's and of the image's embeddings.
TEXT_DIM, IMAGE_DIM = 64, 32

#: CLIP and SigLIP.
VISION: dict[str, Any] = {
    "hidden_size": IMAGE_DIM, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip

WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2), "in_channels": LATENT, "out_channels": LATENT, "text_dim": TEXT_DIM, "freq_dim": 64,
    "ffn_dim": 256, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024,
}  # fmt: skip

#: Both VAEs work on patches of 2 x 2 pixels, Wan 2.1's too, which is 8 x 8 then with a level less: a fifth of the time.
_VAE = {
    "base_dim": 8, "num_res_blocks": 1, "attn_scales": [], "in_channels": 12, "out_channels": 12, "patch_size": 2,
}  # fmt: skip
WAN_VAE: dict[str, Any] = {
    **_VAE, "z_dim": LATENT, "dim_mult": [1, 2, 2], "temperal_downsample": [True, True],
}  # fmt: skip
WIDE_VAE: dict[str, Any] = {
    **_VAE, "decoder_base_dim": 8, "z_dim": WIDE_LATENT, "dim_mult": [1, 2, 2, 2],
    "temperal_downsample": [False, True, True], "is_residual": True, "scale_factor_spatial": 16,
    "scale_factor_temporal": 4, "latents_mean": [0.0] * WIDE_LATENT, "latents_std": [1.0] * WIDE_LATENT,
}  # fmt: skip

HUNYUAN: dict[str, Any] = {
    "in_channels": 2 * HUNYUAN_LATENT + 1, "out_channels": HUNYUAN_LATENT, "num_refiner_layers": 1, "mlp_ratio": 2.0,
    "text_embed_dim": TEXT_DIM, "text_embed_2_dim": TEXT_DIM, "target_size": 640,
}  # fmt: skip
HUNYUAN_TEXT: dict[str, Any] = {
    "hidden_size": TEXT_DIM, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
}  # fmt: skip
HUNYUAN_VAE: dict[str, Any] = {
    "latent_channels": HUNYUAN_LATENT, "block_out_channels": (8, 8, 16, 32, 64), "layers_per_block": 1,
}  # fmt: skip

#: A token of Cosmos 3 is a square of so many latents a side.
COSMOS3_PATCH = 2
COSMOS3: dict[str, Any] = {
    "intermediate_size": 256, "latent_channel": WIDE_LATENT, "latent_patch_size": COSMOS3_PATCH,
    "patch_latent_dim": COSMOS3_PATCH**2 * WIDE_LATENT,
}  # fmt: skip

#: Of CogVideoX: pixels of a side, and video frames, for which the rotary positions are those of the training.
_SIDE, _FRAMES = 64, 49
COGVIDEOX: dict[str, Any] = {
    "in_channels": LATENT, "out_channels": LATENT, "time_embed_dim": 64, "text_embed_dim": TEXT_DIM,
    "sample_width": _SIDE // 8, "sample_height": _SIDE // 8, "sample_frames": _FRAMES,
    "use_rotary_positional_embeddings": True,
}  # fmt: skip
COGVIDEOX_VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16), "latent_channels": LATENT, "layers_per_block": 1, "norm_num_groups": 4,
    "sample_height": _SIDE, "sample_width": _SIDE, "scaling_factor": 0.7,
}  # fmt: skip

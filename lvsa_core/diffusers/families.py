"""The families of diffusers' video transformers that LVSA knows: data and small functions."""

from __future__ import annotations

from typing import Any

import torch

from lvsa_core.diffusers.dispatch import Tokens
from lvsa_core.diffusers.divide import SequencePlan
from lvsa_core.diffusers.family import Arguments, Family, VideoTokens
from lvsa_core.diffusers.processors import text_first, unmasked
from lvsa_core.facts import patched_grid
from lvsa_core.grid import FrameGrid, TokenLayout
from lvsa_core.vace import reference_frames


def _wan(transformer: Any, arguments: Arguments) -> VideoTokens:
    """[images | video], in queries and keys: VACE's reference images are latent frames before the video's."""
    frames, rows, columns = patched_grid(arguments["hidden_states"].shape, transformer.config.patch_size)
    condition = arguments.get("control_hidden_states")
    images = 0 if condition is None else reference_frames(condition, transformer.config.in_channels)
    grid = FrameGrid(frames - images, rows * columns)
    ahead = images * grid.patches
    return VideoTokens(grid, lambda: Tokens((TokenLayout(grid, kv_before=ahead, q_before=ahead),), ahead=ahead))


def _wan_attention(transformer: Any) -> list[Any]:
    """VACE's control blocks have the same self-attention."""
    return [block.attn1 for block in (*transformer.blocks, *getattr(transformer, "vace_blocks", ()))]


def _hunyuan(transformer: Any, arguments: Arguments) -> VideoTokens:
    """[video | valid text | padding]: the transformer itself sorts the image's, the glyphs' and the prompt's tokens so.

    Source: diffusers, ``HunyuanVideo15Transformer3DModel.forward``; an image of zeros is none.
    """
    config = transformer.config
    patch = config.patch_size_t, config.patch_size, config.patch_size
    frames, rows, columns = patched_grid(arguments["hidden_states"].shape, patch)
    grid = FrameGrid(frames, rows * columns)

    def tokens() -> Tokens:
        masks = [arguments[name].bool() for name in ("encoder_attention_mask", "encoder_attention_mask_2")]
        image = arguments["image_embeds"]
        text = sum(mask.shape[1] for mask in masks) + image.shape[1]
        images = image.shape[1] if bool(image.any()) else 0
        valid = [count + images for count in torch.cat(masks, dim=1).sum(1).tolist()]
        layouts = tuple(TokenLayout(grid, kv_after=count, q_after=count) for count in valid)
        return Tokens(layouts, tuple(text - count for count in valid))

    return VideoTokens(grid, tokens)


def _cosmos(transformer: Any, arguments: Arguments) -> VideoTokens:
    """Keys [text | video | sound and action]; the text is no query, it has causal attention of its own."""
    shapes = arguments["vision_token_shapes"]
    if len(shapes) != 1:
        raise ValueError(f"there are {len(shapes)} videos in one sequence, expected one")
    frames, height, width = shapes[0]
    grid = FrameGrid(frames, height * width)

    def tokens() -> Tokens:
        text, length = arguments["und_len"], arguments["sequence_length"]
        if int(arguments["vision_sequence_indexes"][0]) != text:
            raise ValueError("the video does not stand right behind the text")
        after = length - text - grid.tokens
        return Tokens((TokenLayout(grid, kv_before=text, kv_after=after, q_after=after),), behind=after)

    return VideoTokens(grid, tokens)


def _cogvideox(transformer: Any, arguments: Arguments) -> VideoTokens:
    """[text | video], in queries and keys; hidden_states [B, T, C, H, W].

    CogVideoX 1.5 joins latent frames in pairs, 1.0 does not; an odd number of frames is completed to pairs.
    """
    shape, patch = arguments["hidden_states"].transpose(1, 2).shape, transformer.config.patch_size
    frames, rows, columns = patched_grid(shape, (1, patch, patch))
    grid = FrameGrid(-(-frames // (transformer.config.patch_size_t or 1)), rows * columns)

    def tokens() -> Tokens:
        text = arguments["encoder_hidden_states"].shape[1]
        return Tokens((TokenLayout(grid, kv_before=text, q_before=text),))

    return VideoTokens(grid, tokens)


FAMILIES = (
    Family(
        name="wan",
        transformers=("WanTransformer3DModel", "WanVACETransformer3DModel"),
        video=_wan,
        attention=_wan_attention,
        processors=("WanAttnProcessor",),
        sequence=SequencePlan(
            blocks=lambda transformer: [*transformer.blocks, *getattr(transformer, "vace_blocks", ())],
            rows={
                "hidden_states": (3, 1),
                "control_hidden_states": (3, 1),
                "temb": (4, 1),  # TI2V-5B has one for each token
                "rotary_emb": ((4, 1), (4, 1)),
            },
            joined="norm_out",
        ),
        own_tables=True,
    ),
    Family(
        name="hunyuan",
        transformers=("HunyuanVideo15Transformer3DModel",),
        video=_hunyuan,
        attention=lambda transformer: [block.attn for block in transformer.transformer_blocks],
        processors=("HunyuanVideo15AttnProcessor2_0",),
        sequence=SequencePlan(
            blocks=lambda transformer: transformer.transformer_blocks,
            rows={"hidden_states": (3, 1), "freqs_cis": ((2, 0), (2, 0))},
            joined="norm_out",
        ),
        sparse=unmasked,
        own_tables=True,
    ),
    Family(
        name="cosmos3",
        transformers=("Cosmos3OmniTransformer",),
        video=_cosmos,
        attention=lambda transformer: [layer.self_attn for layer in transformer.layers],
        processors=("Cosmos3AttnProcessor",),
        sequence=SequencePlan(
            blocks=lambda transformer: transformer.layers,
            rows={"gen_seq": (2, 0), "rotary_emb": (None, None, (2, 0), (2, 0))},
            joined="norm_moe_gen",
            dim=0,
        ),
        latents=lambda arguments: arguments["vision_tokens"][0],
        timestep="vision_timesteps",
    ),
    Family(
        name="cogvideox",
        transformers=("CogVideoXTransformer3DModel",),
        video=_cogvideox,
        attention=lambda transformer: [block.attn1 for block in transformer.transformer_blocks],
        processors=("CogVideoXAttnProcessor2_0", "FusedCogVideoXAttnProcessor2_0"),
        sequence=SequencePlan(
            blocks=lambda transformer: transformer.transformer_blocks,
            rows={"hidden_states": (3, 1), "image_rotary_emb": ((2, 0), (2, 0))},
            joined="norm_final",
        ),
        sparse=text_first,
    ),
)


def family_of(transformer: Any) -> Family | None:
    """The family of a transformer, None if LVSA knows none."""
    names = {base.__name__ for base in type(transformer).__mro__}
    return next((family for family in FAMILIES if names.intersection(family.transformers)), None)

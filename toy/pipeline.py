"""Toy Wan as a diffusers pipeline, from the package's weights or from a training's state; videos of it as latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from torch import Tensor
from torch.nn import functional

from lvsa_vllm_omni.tiny.toy import components, toy_transformer
from toy import world

#: How Toy Wan is sampled.
STEPS, GUIDANCE = 25, 1.0
#: Text tokens of the model; all but those of the words are zeros.
TOKENS = 512


class FewTokens:
    """Cross-attention to the words and one of the zeros, which stands for all of them: the same as with 512 tokens."""

    @classmethod
    def put_into(cls, transformer: Any) -> None:
        """Let a transformer's blocks attend so, where half of their attention would be to zeros."""
        for block in transformer.blocks:
            block.attn2.set_processor(cls())

    @staticmethod
    def of(text: Tensor) -> Tensor:
        """The first tokens of [B, N, C], up to the first that is zero from there on in the whole batch."""
        used = text.abs().amax((0, 2)).nonzero()
        return text[:, : int(used.max()) + 2 if len(used) else 1]

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attend from the video [B, S, C] to the text [B, N, C], whose last token stands for ``TOKENS`` - N + 1."""
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        value = attn.to_v(encoder_hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        alike = query.new_zeros(1, 1, 1, key.shape[2])
        alike[..., -1] = math.log(TOKENS - key.shape[2] + 1)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=alike)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def load(file: Path, *needed: str) -> dict[str, Any]:
    """Read the state that a training keeps in a file.

    Args:
        needed: what it must hold.

    Raises:
        SystemExit: with a sentence, if there is no file or it is no such state.
    """
    try:
        state = dict(torch.load(file, weights_only=True))
        return {**{name: state[name] for name in needed}, **state}
    except FileNotFoundError:
        raise SystemExit(f"error: {file}: no such file; name the one that a training has written") from None
    except Exception:  # what torch's unpickler raises depends on the bytes
        raise SystemExit(f"error: {file} is not the state of a training: name another file or remove it") from None


def pipeline(state: Path | None = None, *, images: bool = False) -> Any:
    """Build the pipeline in float32.

    Args:
        state: a file of :mod:`toy.train`, whose average of the weights is used; None: the package's weights.
        images: whether its videos begin with a picture, which is what ``toy.train --images`` trains for.
    """
    built = components()
    parts: dict[str, Any] = {name: part for name, (_, _, part) in built.components.items()}
    parts["tokenizer"] = parts["tokenizer"].fast
    if state is not None:
        kept = load(state, "average", "head_dim")
        parts["transformer"] = toy_transformer(head_dim=kept["head_dim"])
        parts["transformer"].load_state_dict(kept["average"])
    kind: Any = partial(WanImageToVideoPipeline, expand_timesteps=True) if images else WanPipeline
    pipe = kind(**{name: part.eval() if hasattr(part, "eval") else part for name, part in parts.items()})
    pipe.set_progress_bar_config(disable=True)
    FewTokens.put_into(pipe.transformer)
    return pipe


def asked(seeds: Sequence[int]) -> world.Clips:
    """One clip for each seed, whose words are the prompt; where the ball starts is the model's choice."""
    clips = [world.draw(1, torch.Generator().manual_seed(seed)) for seed in seeds]
    return world.Clips(**{name: torch.cat([getattr(clip, name) for clip in clips]) for name in vars(clips[0])})


def sample(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    frames: int,
    guidance: float = GUIDANCE,
    images: Tensor | None = None,
) -> Tensor:
    """Make videos.

    Args:
        prompts, seeds: of each video. frames: latent frames.
        images: the first picture of each [B, 3, pixels, pixels], -1 to 1, for a pipeline that was built for them,
            which takes them one by one.

    Returns:
        Latents [B, channels, frames, cells, cells] in float32.
    """
    if images is not None and len(seeds) > 1:
        each = zip(prompts, seeds, images, strict=True)
        return torch.cat([sample(pipe, [p], [s], frames, guidance, image[None]) for p, s, image in each])
    given = {} if images is None else {"image": images / 2 + 0.5}
    side = world.SIDE * world.CELL
    # The pipeline for images cleans prompts with ftfy, which diffusers does not bring.
    reader: Any = pipe if images is None else WanPipeline(pipe.tokenizer, pipe.text_encoder, pipe.vae, pipe.scheduler)
    words, empty = reader.encode_prompt(list(prompts), "", max_sequence_length=TOKENS)
    return pipe(
        prompt_embeds=FewTokens.of(words), negative_prompt_embeds=FewTokens.of(empty) if guidance > 1 else None,
        num_frames=(frames - 1) * world.FRAMES + 1,
        height=side, width=side, num_inference_steps=STEPS, guidance_scale=guidance, output_type="latent",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds], **given,
    ).frames.float()  # fmt: skip


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Decode latents to pictures [B, 3, video frames, pixels, pixels], -1 to 1."""
    return torch.cat([pipe.vae.decode(one[None], return_dict=False)[0] for one in latents])

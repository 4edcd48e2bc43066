"""Toy Wan as a diffusers pipeline, from the package's weights or from a training's state; videos of it as latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor

from lvsa_vllm_omni.tiny.toy import components, toy_transformer
from toy import world

#: How Toy Wan is sampled.
STEPS, GUIDANCE = 25, 1.0


def pipeline(state: Path | None = None) -> Any:
    """Build the pipeline in float32; ``state``: a file of :mod:`toy.train`, whose average of the weights is used."""
    built = components()
    parts: dict[str, Any] = {name: part for name, (_, _, part) in built.components.items()}
    parts["tokenizer"] = parts["tokenizer"].fast
    if state is not None:
        kept = torch.load(state, weights_only=True)
        parts["transformer"] = toy_transformer(head_dim=kept["head_dim"])
        parts["transformer"].load_state_dict(kept["average"])
    pipe: Any = WanPipeline(**{name: part.eval() if hasattr(part, "eval") else part for name, part in parts.items()})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def asked(seeds: Sequence[int]) -> world.Clips:
    """One clip for each seed, whose words are the prompt; where the ball starts is the model's choice."""
    clips = [world.draw(1, torch.Generator().manual_seed(seed)) for seed in seeds]
    return world.Clips(**{name: torch.cat([getattr(clip, name) for clip in clips]) for name in vars(clips[0])})


def sample(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], frames: int, guidance: float = GUIDANCE, **more: Any
) -> Tensor:
    """Make videos.

    Args:
        prompts, seeds: of each video. frames: latent frames. more: arguments of the pipeline's call.

    Returns:
        Latents [B, channels, frames, cells, cells] in float32.
    """
    side = world.SIDE * world.CELL
    return pipe(
        prompt=list(prompts), negative_prompt="" if guidance > 1 else None, num_frames=(frames - 1) * world.FRAMES + 1,
        height=side, width=side, num_inference_steps=STEPS, guidance_scale=guidance, output_type="latent",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds], **more,
    ).frames.float()  # fmt: skip


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Decode latents to pictures [B, 3, video frames, pixels, pixels], -1 to 1."""
    return torch.cat([pipe.vae.decode(one[None], return_dict=False)[0] for one in latents])

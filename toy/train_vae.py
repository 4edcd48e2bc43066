"""Train Toy Wan's VAE: its decoder from the world's latents to its pictures, its encoder back.

    python -m toy.train_vae outputs/toy/vae.pt

The two learn apart, as both sides are known. Pixels of the ball count more, or it would become a smudge.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor
from tqdm import tqdm

from lvsa_vllm_omni.tiny.toy import toy_vae
from toy import world
from toy.pipeline import load

DECODER_STEPS, ENCODER_STEPS, RATE = 6800, 1200, 3e-3
#: Clips of a step and latent frames of a clip, in the first part of the steps and after it.
SHORT, LONG, SHORT_SHARE = (4, 2), (2, 5), 0.55
#: Weight of a pixel of the ball and around it; noise on the latents, which a transformer's are not free of.
BALL_WEIGHT, NOISE = 6.0, 0.08
#: Logarithm of the encoder's variance: it is sure.
LOG_VARIANCE = -9.0


def main() -> None:
    """Train both, with a state on the disk every 100 steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the state is kept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed + 1)
    vae = toy_vae().to(device)
    sides = [
        torch.optim.AdamW(
            [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()], weight_decay=0.0, betas=(0.9, 0.99)
        ),
        torch.optim.AdamW(
            [*vae.encoder.parameters(), *vae.quant_conv.parameters()], weight_decay=0.0, betas=(0.9, 0.99)
        ),
    ]
    parts, done = [vae, *sides], 0
    if arguments.file.exists():
        state = load(arguments.file, "parts")
        for part, kept in zip(parts, state["parts"], strict=True):
            part.load_state_dict(kept)
        done = state["done"]
        generator.set_state(state["generator"])
    arguments.file.parent.mkdir(parents=True, exist_ok=True)

    steps = DECODER_STEPS + ENCODER_STEPS
    shown = 0.0
    bar = tqdm(range(done, steps), initial=done, total=steps, unit="step", mininterval=10)
    for step in bar:
        encoding = step >= DECODER_STEPS
        share = (step - DECODER_STEPS) / ENCODER_STEPS if encoding else step / DECODER_STEPS
        rate = RATE * min(1.0, share * 30 + 0.01) * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
        side = sides[encoding]
        for group in side.param_groups:
            group["lr"] = rate
        count, frames = SHORT if share < SHORT_SHARE else LONG
        clips = world.draw(count, generator)
        latents = world.latents(clips, frames).to(device)
        pictures, ball = (x.to(device) for x in world.pixels(clips, frames))
        if encoding:
            posterior = vae.encode(pictures).latent_dist
            loss = (posterior.mean - latents).square().mean() + 1e-4 * (posterior.logvar - LOG_VARIANCE).square().mean()
        else:
            noisy = latents + NOISE * torch.rand(count, 1, 1, 1, 1).to(device) * torch.randn_like(latents)
            weight = 1 + BALL_WEIGHT * _around(ball)
            loss = ((decoded(vae, noisy) - pictures).square() * weight).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(side.param_groups[0]["params"], 1.0)
        side.step()
        side.zero_grad()
        shown = 0.95 * shown + 0.05 * loss.item() if shown else loss.item()
        bar.set_postfix(side="encoder" if encoding else "decoder", loss=f"{shown:.5f}", refresh=False)
        if (step + 1) % 100 == 0:
            kept = [part.state_dict() for part in parts]
            draft = arguments.file.with_suffix(".part")
            torch.save({"parts": kept, "done": step + 1, "generator": generator.get_state()}, draft)
            os.replace(draft, arguments.file)


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Decode as ``vae.decode`` does, but without its limit to -1 and 1, beyond which there is no gradient."""
    vae.clear_cache()
    mixed = vae.post_quant_conv(latents)
    pieces = []
    for frame in range(latents.shape[2]):
        place, first = mixed[:, :, frame : frame + 1], {"first_chunk": True} if frame == 0 else {}
        pieces.append(vae.decoder(place, feat_cache=vae._feat_map, feat_idx=[0], **first))
    vae.clear_cache()
    return unpatchify(torch.cat(pieces, dim=2), patch_size=vae.config.patch_size)


def _around(ball: Tensor) -> Tensor:
    """Widen the ball by some pixels, so that its edge counts too."""
    flat = ball.flatten(0, 2)[:, None]
    return torch.nn.functional.max_pool2d(flat, 7, stride=1, padding=3).view_as(ball)


if __name__ == "__main__":
    main()

"""Does Toy Wan make, at its training length, the videos that its prompts ask for? Judged in the decoded pictures.

python -m toy.evaluate --json benchmarks/results/toy-wan.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvsa_vllm_omni.measure.machine import facts
from toy import world
from toy.pipeline import asked, decode, pipeline, sample

#: A pixel is the ball's within this distance of its paint, of 2 a channel; the ball's area is within this of the truth.
NEAR, AREA = 0.45, (0.6, 1.4)


def main() -> None:
    """Print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", type=Path, help="state of toy.train; default: the package's weights")
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pipe = pipeline(arguments.transformer)
    seeds = range(1000, 1000 + arguments.videos)
    clips = asked(seeds)
    pictures = decode(pipe, sample(pipe, clips.prompts(), seeds, world.LENGTH, arguments.guidance))
    found = judge(pictures, clips) | codec(pipe)
    for name, value in found.items():
        print(f"| {name} | {value:.3f} |")
    if arguments.json:
        machine = facts(torch.device("cpu"))
        arguments.json.write_text(json.dumps({"machine": machine, "rows": [found]}, indent=1) + "\n")


def judge(pictures: Tensor, clips: world.Clips) -> dict[str, float]:
    """Shares of videos, and of video frames where it says so, that are as their prompts want.

    Args:
        pictures: [B, 3, N, pixels, pixels], -1 to 1.
    """
    paints = torch.tensor(list(world.COLOURS.values()), dtype=torch.float32) * 0.76
    far = torch.stack([(pictures - paint[:, None, None, None]).abs().amax(1) for paint in paints], 1)
    masks = (far < NEAR).float()
    colour = masks.sum((2, 3, 4)).argmax(1)
    mask = masks[torch.arange(len(masks)), colour]
    area = mask.sum((2, 3)) / (torch.pi * world.BALL_RADIUS**2)
    place = torch.arange(pictures.shape[-1]) + 0.5
    centre = torch.stack([(mask * place).sum((2, 3)), (mask * place[:, None]).sum((2, 3))], -1)
    centre = centre / mask.sum((2, 3)).clamp(min=1)[..., None]
    # A disc's mean squared distance from its centre is half of its squared radius; two balls have more.
    across = (place - centre[..., :1, None]).square() + (place[:, None] - centre[..., 1:, None]).square()
    spread = (mask * across).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)
    valid = (area > AREA[0]) & (area < AREA[1]) & (spread < 0.75 * world.BALL_RADIUS**2)
    speed = (centre[:, 1:] - centre[:, :-1]).norm(dim=-1).mean(1) * world.FRAMES / world.CELL
    speeds = torch.tensor(list(world.SPEEDS.values()))
    right_colour, right_speed = colour == clips.colour, (speed[:, None] - speeds).abs().argmin(1) == clips.speed
    corner = pictures[:, :, :, -2:, :].mean((3, 4))
    skies = torch.tensor([paint for _, paint in world.SKIES.values()]) * 2 - 1
    sky = (corner.mean(2)[:, None] - skies).norm(dim=-1).argmin(1) == clips.sky
    return {
        "frames with one ball": float(valid.float().mean()),
        "colour": float(right_colour.float().mean()),
        "speed class": float(right_speed.float().mean()),
        "colour and speed class": float((right_colour & right_speed).float().mean()),
        "sky": float(sky.float().mean()),
        "largest change of a sky, of 2": float((corner - corner[:, :, :1]).abs().max()),
    }


@torch.no_grad()
def codec(pipe: Any) -> dict[str, float]:
    """Peak signal-to-noise ratios of the decoder, and the encoder's error, on clips that it has not seen."""
    clips = world.draw(16, torch.Generator().manual_seed(10**6))
    latents = world.latents(clips, 9)
    pictures, ball = world.pixels(clips, 9)
    error = (decode(pipe, latents) - pictures).square()
    inside = (error * ball).sum() / ball.sum() / 3
    back = torch.cat([pipe.vae.encode(one[None]).latent_dist.mean for one in pictures])
    return {
        "decoder, dB": float(10 * torch.log10(4 / error.mean())),
        "decoder inside the ball, dB": float(10 * torch.log10(4 / inside)),
        "encoder, root mean squared error": float((back - latents).square().mean().sqrt()),
    }


if __name__ == "__main__":
    main()

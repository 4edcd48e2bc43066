"""The world of Toy Wan: a ball that bounces before a still sun and an even sky, as latents and as pixels.

Lengths are in latent cells (8 pixels), time is in latent frames (4 video frames). A clip has 11 latent channels: the
ball at the four video frames of a latent frame, its colour (3), the sun, the sky, and two that say where in the picture
a cell is, which shows the model where the walls are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Cells of a side, pixels of a cell, video frames of a latent frame.
SIDE, CELL, FRAMES = 8, 8, 4
#: Latent frames of a training clip, which are 81 video frames.
LENGTH = 21
#: How near to the border the ball's centre comes.
WALL = 1.4
#: The ball's directions: so many degrees from an axis, mirrored in both axes and in the diagonal. Walls keep them.
TILT = 31.7
BALL_CHANNELS, COLOUR_CHANNELS = slice(0, FRAMES), slice(FRAMES, FRAMES + 3)
SUN_CHANNEL, SKY_CHANNEL, PLACE_CHANNELS = FRAMES + 3, FRAMES + 4, slice(FRAMES + 5, FRAMES + 7)
CHANNELS = FRAMES + 7
#: Height of a spot in its channel, its width in cells, and the ground that it stands on.
HEIGHT, WIDTH, GROUND = 3.0, 1.2, -0.3
#: Radius in pixels.
BALL_RADIUS, SUN_RADIUS = 8.0, 5.0

COLOURS = {
    "red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1),
    "yellow": (1, 1, -1), "purple": (1, -1, 1), "cyan": (-1, 1, 1),
}  # fmt: skip
#: Cells in a latent frame.
SPEEDS = {"slow": 0.35, "fast": 0.7}
#: Height of the sky's channel, and its colour in pixels, 0 to 1.
SKIES = {
    "blue sky": (-1.0, (0.45, 0.68, 0.95)),
    "grey sky": (0.0, (0.62, 0.63, 0.66)),
    "pink sky": (1.0, (0.96, 0.72, 0.70)),
}
#: The words that the model knows, in the order of their numbers.
WORDS = (*COLOURS, *SPEEDS, *SKIES)


@dataclass(frozen=True)
class Clips:
    """A batch of clips: all that can be said of them.

    Args:
        start: [B, 2], x and y of the ball's centre at time 0.
        velocity: [B, 2], cells in a latent frame.
        sun: [B, 2], x and y of the sun's centre.
        colour, speed, sky: [B], numbers of the words in ``COLOURS``, ``SPEEDS``, ``SKIES``.
    """

    start: Tensor
    velocity: Tensor
    sun: Tensor
    colour: Tensor
    speed: Tensor
    sky: Tensor

    def prompts(self) -> list[str]:
        """What one writes to get such clips."""
        colours, speeds, skies = list(COLOURS), list(SPEEDS), list(SKIES)
        return [
            f"a {colours[c]} ball, {speeds[v]}, {skies[s]}"
            for c, v, s in zip(self.colour.tolist(), self.speed.tolist(), self.sky.tolist(), strict=True)
        ]

    def positions(self, times: Tensor) -> Tensor:
        """Where the ball is: [B, N, 2] at the times [N], mirrored at the walls."""
        room = SIDE - 2 * WALL
        way = (self.start[:, None] + self.velocity[:, None] * times[None, :, None] - WALL) % (2 * room)
        return WALL + room - (way - room).abs()


def draw(count: int, generator: torch.Generator) -> Clips:
    """Draw clips at random, all their words equally often."""

    def number(below: int) -> Tensor:
        return torch.randint(below, (count,), generator=generator)

    def share(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    speed = number(len(SPEEDS))
    tilt = math.radians(TILT)
    heading = torch.stack([torch.full((count,), math.cos(tilt)), torch.full((count,), math.sin(tilt))], 1)
    heading = torch.where(number(2)[:, None] == 0, heading, heading.flip(1))
    heading = heading * (2 * torch.stack([number(2), number(2)], 1) - 1)
    return Clips(
        start=WALL + (SIDE - 2 * WALL) * share(count, 2),
        velocity=heading * torch.tensor(list(SPEEDS.values()))[speed, None],
        sun=torch.stack([1.0 + (SIDE - 2.0) * share(count), 1.0 + 1.5 * share(count)], 1),
        colour=number(len(COLOURS)),
        speed=speed,
        sky=number(len(SKIES)),
    )


def frame_times(frames: int) -> Tensor:
    """Time of every video frame of so many latent frames, of which the first is one video frame and others are four."""
    return torch.arange((frames - 1) * FRAMES + 1) / FRAMES


def latents(clips: Clips, frames: int = LENGTH) -> Tensor:
    """Build the clips' latents, [B, channels, frames, cells, cells]; mean about 0, spread about 1."""
    count = len(clips.start)
    times = (torch.arange(frames)[:, None] - 1 + torch.arange(1, FRAMES + 1) / FRAMES).clamp(min=0)
    ball = _spots(clips.positions(times.flatten())).unflatten(1, (frames, FRAMES)).transpose(1, 2)
    colour = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[clips.colour]
    sky = torch.tensor([height for height, _ in SKIES.values()])[clips.sky]
    ramp = torch.linspace(-1, 1, SIDE)
    still = (count, 1, frames, SIDE, SIDE)
    return torch.cat(
        [
            HEIGHT * ball + GROUND,
            HEIGHT * 0.7 * ball.amax(1, keepdim=True) * colour[:, :, None, None, None],
            (HEIGHT * _spots(clips.sun[:, None])[:, None] + GROUND).expand(still),
            sky[:, None, None, None, None].expand(still),
            ramp.expand(still),
            ramp[:, None].expand(still),
        ],
        dim=1,
    )


def _spots(centres: Tensor) -> Tensor:
    """Draw a round spot of height 1 at every centre, [..., 2] to [..., cells, cells]."""
    cells = torch.arange(SIDE) + 0.5
    across = (cells - centres[..., :1]) / WIDTH
    down = (cells - centres[..., 1:]) / WIDTH
    return torch.exp(-across.square())[..., None, :] * torch.exp(-down.square())[..., :, None]


def pixels(clips: Clips, frames: int) -> tuple[Tensor, Tensor]:
    """Draw the clips: pictures [B, 3, video frames, pixels, pixels] in -1 to 1, and the ball's share of every pixel."""
    side = SIDE * CELL
    ball = _disc(clips.positions(frame_times(frames)) * CELL, BALL_RADIUS, side)[:, None]
    sun = _disc(clips.sun[:, None] * CELL, SUN_RADIUS, side)[:, None]
    sky = torch.tensor([colour for _, colour in SKIES.values()])[clips.sky]
    paint = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[clips.colour] * 0.38 + 0.5
    picture = sky[:, :, None, None, None]
    for share, colour in ((sun, torch.tensor([0.97, 0.94, 0.78]).expand(len(sky), 3)), (ball, paint)):
        picture = picture + share * (colour[:, :, None, None, None] - picture)
    return picture * 2 - 1, ball


def _disc(centres: Tensor, radius: float, side: int) -> Tensor:
    """Draw a disc with a soft edge of a pixel, [..., 2] in pixels to [..., side, side]."""
    place = torch.arange(side) + 0.5
    distance = torch.hypot(place - centres[..., :1, None], place[:, None] - centres[..., 1:, None])
    return (radius + 0.5 - distance).clamp(0, 1)

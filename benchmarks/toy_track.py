"""What a video of Toy Wan shows, told from its latents: where the ball is, and how far that is from the world's law.

No network judges here: the ball is a spot in a channel, its place is measured, and the law of its motion is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toy import world

#: Lags, in latent frames, at which a video is compared with itself: from here to this share of its length.
FIRST_LAG, LAST_LAG = 8, 0.75
#: A step is frozen below this share of the ball's speed; one of a video frame is a leap above so many cells.
FROZEN, LEAP = 0.25, 0.7
#: Cells by which the ball may miss the place that its last two steps foretell, and what is near a wall.
MISS, NEAR = 0.5, 0.25
#: A valid ball: bounds of its height, and the height that nothing far from it may have.
HEIGHTS, ELSEWHERE = (0.6, 1.5), 0.4


def spots(channel: Tensor) -> tuple[Tensor, Tensor]:
    """Find the highest spot of every picture.

    Args:
        channel: [..., cells, cells], as ``world.latents`` makes one of a ball or the sun.

    Returns:
        Its centre in cells, x and y, [..., 2], from the peak and its neighbours, whose logarithms lie on a parabola;
        and whether it is one spot of the right height, [...].
    """
    height = (channel - world.GROUND) / world.HEIGHT
    peak = height.flatten(-2).argmax(-1)
    row, column = peak // world.SIDE, peak % world.SIDE
    logs = height.clamp(min=0.02).log().flatten(-2)

    def at(y: Tensor, x: Tensor) -> Tensor:
        place = y.clamp(0, world.SIDE - 1) * world.SIDE + x.clamp(0, world.SIDE - 1)
        return logs.gather(-1, place[..., None])[..., 0]

    centre, top = [], torch.zeros_like(logs[..., 0])
    middle = at(row, column)
    for before, after, cell in (
        (at(row, column - 1), at(row, column + 1), column),
        (at(row - 1, column), at(row + 1, column), row),
    ):
        slope, bend = (after - before) / 2, (before + after - 2 * middle).clamp(max=-0.2)
        shift = (-slope / bend).clamp(-0.7, 0.7)
        centre.append(cell + 0.5 + shift)
        top = top - slope * slope / bend / 2
    found = torch.stack(centre, -1)
    cells = torch.arange(world.SIDE) + 0.5
    away = torch.hypot(cells - found[..., :1, None], cells[:, None] - found[..., 1:, None]) > 2.7
    rest = torch.where(away, height, -torch.inf).flatten(-2).amax(-1)
    top = (middle + top).exp()
    return found, (top > HEIGHTS[0]) & (top < HEIGHTS[1]) & (rest < ELSEWHERE)


def track(latents: Tensor) -> tuple[Tensor, Tensor]:
    """The ball at every video frame of latents [B, channels, T, cells, cells]: centres [B, N, 2], validity [B, N]."""
    ball = latents[:, world.BALL_CHANNELS].transpose(1, 2).flatten(1, 2)[:, world.FRAMES - 1 :]
    return spots(ball)


def self_distance(places: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance of the ball to itself at every lag.

    Args:
        places: [B, N, 2], of every video frame.

    Returns:
        [B, lags] in cells, and the lags in latent frames.
    """
    steps = places[:, :: world.FRAMES]
    frames = steps.shape[1]
    lags = torch.arange(FIRST_LAG, max(int(LAST_LAG * frames), FIRST_LAG + 1))
    distances = [(steps[:, int(lag) :] - steps[:, : frames - int(lag)]).norm(dim=-1).mean(1) for lag in lags]
    return torch.stack(distances, 1), lags


def marks(latents: Tensor, anchors: Sequence[int]) -> list[float]:
    """How much more the latents [B, channels, T, cells, cells] bend over time at the anchors than at other frames.

    Returns:
        For each video a ratio of mean absolute second differences: 1, if an anchor looks like any other frame.
    """
    bends = (latents[:, :, 2:] - 2 * latents[:, :, 1:-1] + latents[:, :, :-2]).abs().mean((1, 3, 4))
    anchor = torch.zeros(latents.shape[2], dtype=torch.bool)
    anchor[list(anchors)] = True
    return (bends[:, anchor[1:-1]].mean(1) / bends[:, ~anchor[1:-1]].mean(1)).tolist()


def measure(latents: Tensor, clips: world.Clips) -> dict[str, list[float]]:
    """Measure videos.

    Args:
        latents: [B, channels, T, cells, cells], as the transformer makes them.
        clips: of which colour, speed and sky are what the prompts asked for.

    Returns:
        By name, a number for each video:
        ``loop``: distance of the ball to itself in cells, at the lag where it is least; 0 is a perfect loop;
        ``lag``: that lag in latent frames; ``speed``: mean speed, as a share of what the prompt says;
        ``frozen``: share of latent frames in which the ball rests; ``leaps``: of video frames in which it jumps;
        ``breaches``: share of places, away from walls, that the last steps did not foretell;
        ``valid``: share of video frames with just one ball; ``colour``: share of latent frames of the asked colour;
        ``sun_drift``: mean distance of the sun to its first place, cells; ``sun_valid``: share of frames with one sun;
        ``sky_sd``: spread of the sky over time, where skies differ by 1; ``sky``: 1 if it is the asked one.
    """
    latents = latents.float()
    places, valid = track(latents)
    moves = (places[:, 1:] - places[:, :-1]).norm(dim=-1)
    steps = moves.unflatten(1, (-1, world.FRAMES)).sum(2)
    asked = torch.tensor(list(world.SPEEDS.values()))[clips.speed]
    distances, lags = self_distance(places)
    loop, at = distances.min(1)

    step = 2 * world.FRAMES
    foretold = 2 * places[:, step:-step] - places[:, : -2 * step]
    missed = (places[:, 2 * step :] - foretold).norm(dim=-1) > MISS
    low, high = world.WALL + NEAR, world.SIDE - world.WALL - NEAR
    free = ((places > low) & (places < high)).all(-1).unfold(1, 2 * step + 1, 1).all(-1)
    outside = ((places < world.WALL - MISS) | (places > world.SIDE - world.WALL + MISS)).any(-1)[:, 2 * step :]
    breaches = ((missed & free) | outside).sum(1) / (free | outside).sum(1).clamp(min=1)

    colours = torch.tensor(list(world.COLOURS.values()), dtype=torch.float32)
    shade = latents[:, world.COLOUR_CHANNELS]
    weight = latents[:, world.BALL_CHANNELS].amax(1, keepdim=True).clamp(min=0)
    shade = (shade * weight).sum((3, 4)) / weight.sum((3, 4)).clamp(min=1e-3)
    nearest = torch.einsum("bct,kc->btk", shade, colours).argmax(2)
    suns, sun_valid = spots(latents[:, world.SUN_CHANNEL])
    sky = latents[:, world.SKY_CHANNEL].mean((2, 3))
    skies = torch.tensor([height for height, _ in world.SKIES.values()])
    told = (sky.mean(1, keepdim=True) - skies).abs().argmin(1)
    found = {
        "loop": loop,
        "lag": lags[at],
        "speed": steps.mean(1) / asked,
        "frozen": (steps < FROZEN * asked[:, None]).float().mean(1),
        "leaps": (moves > LEAP).float().mean(1),
        "breaches": breaches,
        "valid": valid.float().mean(1),
        "colour": (nearest == clips.colour[:, None]).float().mean(1),
        "sun_drift": (suns - suns[:, :1]).norm(dim=-1).mean(1),
        "sun_valid": sun_valid.float().mean(1),
        "sky_sd": sky.std(1),
        "sky": (told == clips.sky).float(),
    }
    return {name: values.tolist() for name, values in found.items()}

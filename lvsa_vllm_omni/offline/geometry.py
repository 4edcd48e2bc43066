"""Lengths and sizes that a checkpoint can make, asked before the engine starts.

The engine rounds what does not fit: Wan makes 81 frames of 83 and 496 pixels of 500, Cosmos 3 rounds frames up. A batch
refuses them, so that a file holds what its settings say.
"""

from __future__ import annotations


def frames_of_horizon(horizon: float, training_frames: int, temporal_factor: int) -> int:
    """Video frames of `horizon` times the training length, as published: 4 x 81 is 321, not 324.

    Args:
        horizon: multiple of the training length, above 0.
        training_frames: training length in video frames, temporal_factor * k + 1.
        temporal_factor: video frames to one latent frame.

    Returns:
        The nearest length of the form temporal_factor * k + 1 to horizon * (training_frames - 1) + 1.
    """
    # Half up, not half to even: 1.5 x 5 latent steps is 8 whatever the parity.
    return int(horizon * (training_frames - 1) / temporal_factor + 0.5) * temporal_factor + 1


def check_frames(frames: int, temporal_factor: int) -> None:
    """Refuse a length in video frames that has no whole number of latent frames.

    Raises:
        ValueError: names the nearest lengths that can be made.
    """
    lower = max(0, (frames - 1) // temporal_factor) * temporal_factor + 1
    if frames == lower:
        return
    nearest = str(lower) if frames < 1 else f"{lower} or {lower + temporal_factor}"
    raise ValueError(f"{frames} frames cannot be made, the length is {temporal_factor} * k + 1: take {nearest}")


def check_size(height: int, width: int, multiple: int) -> None:
    """Refuse a size in pixels that the latent patches do not tile.

    Raises:
        ValueError: names the nearest sizes that can be made.
    """
    for name, value in (("height", height), ("width", width)):
        if value < multiple or value % multiple:
            lower = value // multiple * multiple
            nearest = f"{lower} or {lower + multiple}" if lower else str(multiple)
            raise ValueError(f"{name} {value} cannot be made, it is a multiple of {multiple}: take {nearest}")

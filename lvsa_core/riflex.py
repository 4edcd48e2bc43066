"""RIFLEx: one temporal frequency of the rotary embedding, slowed so that a longer video stays within one period.

Source: arXiv 2502.15894. The intrinsic frequency is the one whose period is nearest to the training length; beyond that
period positions repeat, and with them the video.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lvsa_core.grid import check_int


def period(dim: int, theta: float, k: int) -> float:
    """Latent frames after which frequency ``k`` of a temporal axis of ``dim`` channels repeats: 2 pi theta^(2k/dim)."""
    return 2 * math.pi * math.exp(2 * k / dim * math.log(theta))


def intrinsic_frequency(dim: int, theta: float, length: int) -> int:
    """Index of the frequency whose period is nearest to the training length.

    Args:
        dim: channels of the temporal axis, twice the number of its frequencies.
        theta: base of the rotary embedding. length: latent frames of the training videos.
    """
    return min(range(dim // 2), key=lambda k: abs(period(dim, theta, k) - length))


def frequencies(dim: int, theta: float, *, length: int, scale: float, k: int | None = None) -> Tensor:
    """Temporal frequencies [dim / 2] in float64, radians a latent frame; at scale 1 those of the model.

    Args:
        dim, theta, length: as for :func:`intrinsic_frequency`.
        scale: s; the period of frequency ``k`` becomes s * length.
        k: index of the frequency to change; None: the intrinsic one.

    Raises:
        ValueError: if a number is out of range.
    """
    check_scale(scale)
    k = intrinsic_frequency(dim, theta, check_int("length", length, 1)) if k is None else check_int("k", k, 0)
    if k >= dim // 2:
        raise ValueError(f"k must be at most {dim // 2 - 1}, as the temporal axis has {dim // 2} frequencies, got {k}")
    values = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    if scale != 1:
        values[k] = 2 * math.pi / (length * scale)
    return values


def check_scale(scale: float) -> float:
    """Return ``scale`` if it is a number of at least 1.

    Raises:
        ValueError: if not.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 1 <= scale < math.inf:
        raise ValueError(f"the RIFLEx factor s must be a number of at least 1 (1 is off), got {scale!r}")
    return scale


def no_riflex(family: str, named: str) -> str:
    """The sentence for a model whose tables cannot be changed; ``named`` is what asks for it."""
    return (
        f"RIFLEx is for models whose transformer makes the tables of its rotary embedding, and this {family} is not "
        f"known as one: leave {named} out"
    )


@dataclass(frozen=True)
class SlowedFrequency:
    """What RIFLEx changes in a model's rotary tables.

    Args:
        k: index of the frequency. frequency: the new one, radians a latent frame.
        length: latent frames up to which videos keep the model's own tables.
    """

    k: int
    frequency: float
    length: int

    @classmethod
    def of(cls, dim: int, theta: float, *, length: int, scale: float, k: int | None = None) -> SlowedFrequency:
        """For a temporal axis; arguments as for :func:`frequencies`."""
        k = intrinsic_frequency(dim, theta, length) if k is None else k
        return cls(k, float(frequencies(dim, theta, length=length, scale=scale, k=k)[k]), length)

    def in_video(self, frames: int) -> SlowedFrequency | None:
        """This for a video of so many latent frames, without reference images; None: it keeps the model's tables."""
        return self if frames > self.length else None

    def applied(self, table: tuple[Tensor, Tensor], frames: int, width: int = 2) -> tuple[Tensor, Tensor]:
        """New tables of a video of so many frames; arguments as for :func:`replace`."""
        return replace(table, frames, self.k, self.frequency, width)


def replace(
    table: tuple[Tensor, Tensor], frames: int, k: int, frequency: float, width: int = 2
) -> tuple[Tensor, Tensor]:
    """Tables of a rotary embedding with temporal frequency ``k`` replaced.

    Args:
        table: cosines and sines, both of T * P rows of D channels in whatever shape [.., D], frame-major; the temporal
            axis comes first and each frequency fills ``width`` neighbouring channels.
        frames: T. k: index of the frequency. frequency: the new one, radians a latent frame.

    Returns:
        New tables of the same shapes, dtypes and devices; the angles are computed in float64.
    """
    angles = torch.arange(frames, dtype=torch.float64) * frequency
    values = torch.cos(angles), torch.sin(angles)
    cos, sin = (_with_columns(old, new, k * width, width) for old, new in zip(table, values, strict=True))
    return cos, sin


def _with_columns(table: Tensor, values: Tensor, first: int, width: int) -> Tensor:
    """A copy of ``table`` whose channels from ``first`` on hold one of ``values`` for each frame."""
    rows = table.reshape(len(values), -1, table.shape[-1]).clone()
    rows[..., first : first + width] = values.to(table.device, table.dtype).view(-1, 1, 1)
    return rows.view(table.shape)

"""At which temporal positions anchors and the frames that see them stand: distances that the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lvsa_core.grid import check_int

if TYPE_CHECKING:  # with it comes torch, for which who only looks at the settings should not wait
    from lvsa_core.riflex import SlowedFrequency


@dataclass(frozen=True)
class TemporalAxis:
    """What a rotary embedding turns by time: pairs of neighbouring channels of a head, the first ones.

    Args:
        frequencies: radians a latent frame, one for each pair.
    """

    frequencies: tuple[float, ...]

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, channels: int, theta: float, slowed: SlowedFrequency | None = None) -> TemporalAxis:
        """Give the axis of an embedding with ``theta`` as the base of its frequencies.

        Args:
            channels: twice the number of frequencies. slowed: the one that RIFLEx has changed in the video's tables.
        """
        from lvsa_core.riflex import frequencies

        values = frequencies(channels, theta, length=1, scale=1).tolist()
        if slowed is not None:
            values[slowed.k] = slowed.frequency
        return cls(tuple(values))

    @property
    def channels(self) -> int:
        """How many channels of a head they are."""
        return 2 * len(self.frequencies)


@dataclass(frozen=True)
class Remap:
    """Frames in groups: the distance between an anchor and a frame is that of their groups, and of half a window.

    With G frames in a group and the shift c, a frame i sees an anchor j before its window at the distance
    floor(i / G) - floor(j / G) + c, and one after it at the mirrored distance. G is the smallest number that keeps all
    distances within those of the training, and c lets the distances go on where those of the window end.

    Args:
        length: latent frames L that the model was trained on; no distance is more than L - 1.
        axis: of the model's rotary embedding.

    Raises:
        ValueError: if the length is no positive integer.

    Source: arXiv 2603.25209, positions in groups, here for the anchors alone.
    """

    length: int
    axis: TemporalAxis

    def __post_init__(self) -> None:
        check_int("length", self.length, 1)

    def grouping(self, frames: int, window: int) -> tuple[int, int]:
        """The number of frames in a group, and the shift.

        Args:
            frames: latent frames T of the video. window: half window W.

        Raises:
            ValueError: if the window leaves no distance for the anchors.
        """
        room = self.length - 1 - window
        if room < 1:
            raise ValueError(
                f"anchor_positions='remap' needs distances beyond the window that the model was trained on: it knows "
                f"{self.length} latent frames, so the half window must be at most "
                f"{self.length - 2} latent frames, got {window}"
            )
        group = max(1, -(-(frames - 1 - window) // room))
        return group, window - window // group


def check_remap(family: str, axis: object, length: int, window: int) -> None:
    """Whether the anchors of a model can be seen at distances of its training.

    Args:
        axis: of its rotary embedding; None: no channels turn by time alone, or nobody says which.
        length: latent frames L of the training. window: half window W.

    Raises:
        ValueError: if not, with what to leave out.
    """
    if axis is None:
        raise ValueError(
            f"anchor_positions=remap, which the recipe has too, is for models that turn the first channels of each "
            f"head by time alone, and this {family} is not known as one: leave it out"
        )
    Remap(length, TemporalAxis(())).grouping(1, window)

"""Which latent frames each latent frame attends to, and at which distance: rotating anchors, and a window around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lvsa_core.budget import keyframe_interval as automatic_interval
from lvsa_core.grid import check_int
from lvsa_core.positions import Remap


@dataclass(frozen=True)
class Pattern:
    """Which frames attend to which in one denoising step; all numbers are latent frames.

    ``allows`` is the definition; everything else is derived from the same anchors and windows.

    Args:
        frames: number of frames T of the video.
        window: half window W; 0: the window is the frame itself.
        n_first: number of leading frames that are always anchors.
        keyframe_interval: distance between anchors; 1: every frame is an anchor.
        offset: how far the anchors have moved; the step modulo the interval if they rotate.
        expand_window: whether each window grows until it holds 2W+1 frames that are not anchors.
        anchor_boost: added to the scores of anchors.
        remap: the positions at which anchors outside of a frame's window are seen; None: their own. With it an anchor
            in the window is one of the window's frames, and not boosted.

    A pattern that lets every frame attend to every frame is plain dense attention, whatever the last two say.

    Raises:
        ValueError: if a number is out of range.

    Source: arXiv 2605.31057, global anchors and expanded local window.
    """

    frames: int
    window: int = 3
    n_first: int = 1
    keyframe_interval: int = 1
    offset: int = 0
    expand_window: bool = True
    anchor_boost: float = 0.0
    remap: Remap | None = None

    def __post_init__(self) -> None:
        check_int("frames", self.frames, 1)
        check_int("window", self.window, 0)
        check_int("n_first", self.n_first, 0)
        check_int("keyframe_interval", self.keyframe_interval, 1)
        check_int("offset", self.offset, 0)
        check_boost(self.anchor_boost)
        if self.remap is not None:
            self.remap.grouping(self.frames, self.window)

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """The frames that every frame attends to, in time order."""
        rotating = range(math.ceil(self.frames / self.keyframe_interval))
        moved = {(self.offset + i * self.keyframe_interval) % self.frames for i in rotating}
        return tuple(sorted(moved.union(range(min(self.n_first, self.frames)))))

    @cached_property
    def nonanchors_before(self) -> tuple[int, ...]:
        """How many of the frames before each frame are not anchors; with one more number at the end, for all frames."""
        anchors, counts = set(self.anchors), [0]
        for frame in range(self.frames):
            counts.append(counts[-1] + (frame not in anchors))
        return tuple(counts)

    @cached_property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """The window of every frame as (first, last), both inclusive."""
        last, width, half, before = self.frames - 1, 2 * self.window, self.window, self.nonanchors_before
        grows = self.expand_window and half > 0
        target = min(width + 1, self.frames - len(self.anchors)) if grows else 0  # frames that are not anchors
        windows = []
        for frame in range(self.frames):
            low, high = max(0, min(frame - half, last - width)), min(last, max(frame + half, width))
            held = before[high + 1] - before[low]
            while held < target:
                if low > 0:
                    low -= 1
                    held = before[high + 1] - before[low]
                    if held == target:
                        break
                if high < last:
                    high += 1
                    held = before[high + 1] - before[low]
            windows.append((low, high))
        return tuple(windows)

    def window_bounds(self, frame: int) -> tuple[int, int]:
        """The first and the last frame of the window of ``frame``, both inclusive."""
        return self.windows[self._check(frame)]

    def allows(self, q_frame: int, k_frame: int) -> bool:
        """Whether ``q_frame`` attends to ``k_frame``."""
        low, high = self.window_bounds(q_frame)
        return low <= self._check(k_frame) <= high or k_frame in self.anchors

    @cached_property
    def bias(self) -> float:
        """What is added to the scores of anchors."""
        return 0.0 if self.is_dense else self.anchor_boost

    @cached_property
    def grouping(self) -> tuple[int, int] | None:
        """:meth:`Remap.grouping` of this pattern; None: anchors are seen where they are."""
        return None if self.remap is None or self.is_dense else self.remap.grouping(self.frames, self.window)

    def boost(self, q_frame: int, k_frame: int) -> float:
        """What is added to the scores of ``q_frame`` with ``k_frame``."""
        low, high = self.window_bounds(q_frame)
        windows_own = self.grouping is not None and low <= k_frame <= high
        return self.bias if k_frame in self.anchors and not windows_own else 0.0

    def distance(self, q_frame: int, k_frame: int) -> int:
        """At which distance in time ``q_frame`` sees ``k_frame``: positive, if that is before it."""
        low, high = self.window_bounds(q_frame)
        if self.grouping is None or low <= self._check(k_frame) <= high:
            return q_frame - k_frame
        group, shift = self.grouping
        return q_frame // group - k_frame // group + (shift if k_frame < low else -shift)

    @property
    def plain(self) -> bool:
        """Whether anchors are seen where they are, and are not boosted."""
        return self.grouping is None and not self.bias

    def attended(self, frame: int) -> tuple[int, ...]:
        """The frames that ``frame`` attends to, in time order."""
        low, high = self.window_bounds(frame)
        return tuple(sorted({*self.anchors, *range(low, high + 1)}))

    def attended_count(self, frame: int) -> int:
        """How many frames ``frame`` attends to."""
        low, high = self.window_bounds(frame)
        return len(self.anchors) + self.nonanchors_before[high + 1] - self.nonanchors_before[low]

    @property
    def attended_per_frame(self) -> int:
        """The most frames that a frame attends to; fewer at the ends, where windows do not expand."""
        return max(map(self.attended_count, range(self.frames)))

    @cached_property
    def attended_pairs(self) -> int:
        """How many pairs of frames are attended."""
        return sum(map(self.attended_count, range(self.frames)))

    @property
    def density(self) -> float:
        """The part of all pairs of frames that is attended, in (0, 1]."""
        return self.attended_pairs / self.frames**2

    @property
    def is_dense(self) -> bool:
        """Whether every frame attends to every frame."""
        return self.density == 1.0

    def _check(self, frame: int) -> int:
        if not 0 <= frame < self.frames:
            raise ValueError(f"frame must be in 0..{self.frames - 1}, got {frame}")
        return frame


def plan(
    frames: int,
    *,
    reference_frames: int,
    window: int = 3,
    n_first: int = 1,
    sparsity_scale: float = 1.0,
    keyframe_interval: int | None = None,
    expand_window: bool = True,
    step: int = 0,
    rotate: bool = True,
    anchor_boost: float = 0.0,
    remap: Remap | None = None,
) -> Pattern:
    """The pattern of one denoising step. Cached: the same arguments give the same object.

    Args:
        frames: latent frames T of the video.
        reference_frames: latent frames that the model was trained for; only used if the interval is automatic.
        window: half window W.
        n_first: number of leading frames that are always anchors.
        sparsity_scale: multiplies the attention budget.
        keyframe_interval: distance between anchors; None: derived from ``reference_frames``.
        expand_window: whether the windows grow past anchors.
        step: denoising step, from 0.
        rotate: whether the anchors move by one frame in each step.
        anchor_boost, remap: see :class:`Pattern`.

    Raises:
        ValueError: if an argument is out of range.
    """
    interval = (
        automatic_interval(
            frames, reference_frames=reference_frames, window=window, n_first=n_first, sparsity_scale=sparsity_scale
        )
        if keyframe_interval is None
        else check_int("keyframe_interval", keyframe_interval, 1)
    )
    offset = check_int("step", step, 0) % interval if rotate else 0
    return _pattern(frames, window, n_first, interval, offset, expand_window, anchor_boost, remap)


@lru_cache(maxsize=1024, typed=True)
def _pattern(
    frames: int,
    window: int,
    n_first: int,
    interval: int,
    offset: int,
    expand_window: bool,
    anchor_boost: float,
    remap: Remap | None,
) -> Pattern:
    """The one Pattern, with its tables, that all steps and layers with these arguments share."""
    return Pattern(frames, window, n_first, interval, offset, expand_window, anchor_boost, remap)


def check_boost(boost: float) -> float:
    """Return ``boost`` if it is a number from -100 to 100: beyond, a sum of scores would lose the others' digits.

    Raises:
        ValueError: if not.
    """
    if isinstance(boost, bool) or not isinstance(boost, int | float) or not -100 <= boost <= 100:
        raise ValueError(f"anchor_boost must be a number from -100 to 100 (0 is off), got {boost!r}")
    return boost

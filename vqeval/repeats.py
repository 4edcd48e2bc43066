"""Frames that repeat earlier ones, forwards (a loop) or backwards (there and back).

A frame repeats an earlier one if, all along a run of neighbouring frames, the two pictures are the same to within a
part of the motion of ``MOTION_SPAN`` seconds, and the motion that leads to them is the same too. A still background, a
face that comes back to where it was and a walk have similar pictures, but not the same motion frame for frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vqeval.similarity import Floats, Similarity
from vqeval.video import Video

Flags = NDArray[np.bool_]

#: Seconds (and frames) of the shortest run that counts as repeated.
RUN_SECONDS, RUN_FRAMES = 0.6, 6
#: Seconds of the shortest loop; from a frame back to its mirror image it is the same time.
LEAST_LAG_SECONDS = 0.5
#: How much of the motion has to be the same, and how far apart pictures may be, in units of the motion's energy.
SAME_MOTION, SAME_PICTURE = 0.75, 0.25
#: How much motion a run has, at least, in units of its noise and shaking.
LEAST_SIGNAL = 0.3
#: Share of frames that have to move, so that repeats can be told from stillness.
LEAST_MOVING = 0.1
TOO_LITTLE_MOTION = "too little motion to judge: fewer than 10 % of the frames move"


@dataclass(frozen=True)
class Repeats:
    """What repeats in a video.

    Args:
        frames: [T] whether a frame repeats an earlier one. lag: from one to the other in frames; None if none does, and
            for there-and-back, where it changes from frame to frame.
        turns: for there-and-back, frames (with halves) at which the video turns round, most repeated frames first.
    """

    frames: Flags
    lag: int | None = None
    turns: tuple[float, ...] = ()

    @property
    def share(self) -> float:
        """Share of the frames that repeat an earlier one, 0..1."""
        return float(self.frames.mean())


@dataclass(frozen=True)
class _Run:
    """Pairs of frames along one diagonal of the matrix, and which of them lie on a repeated run."""

    later: NDArray[np.intp]
    earlier: NDArray[np.intp]
    repeated: Flags


def run_length(video: Video) -> int:
    """Frames of the shortest run that counts."""
    return max(RUN_FRAMES, video.steps(RUN_SECONDS))


def _repeated(
    similarity: Similarity, moving: Flags, run: int, later: NDArray[np.intp], earlier: NDArray[np.intp], back: bool
) -> _Run:
    """Which of the pairs lie on a run of ``run`` pairs with the same pictures and the same motion."""
    shake, noise = similarity.shake, similarity.noise
    origin = earlier + similarity.span if back else earlier
    same, apart, strength, noisy, moves = (
        _moving_sum(values, run)
        for values in (
            similarity.motion(later, earlier, back=back),
            similarity.squared(later, earlier) - shake,
            (similarity.energy[later] + similarity.energy[origin]) / 2 - shake,
            (noise[later] + noise[earlier] + shake) * LEAST_SIGNAL,
            moving[later].astype(np.float64) - 0.5,
        )
    )
    found = (same >= SAME_MOTION * strength) & (apart <= SAME_PICTURE * strength) & (strength > noisy) & (moves > 0)
    return _Run(later, earlier, np.convolve(found, np.ones(run)) > 0.5)


def _moving_sum(values: Floats, length: int) -> Floats:
    """Sums of ``length`` neighbours."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    sums: Floats = total[length:] - total[:-length]
    return sums


def _lags(video: Video, similarity: Similarity) -> range:
    least = max(video.steps(LEAST_LAG_SECONDS), similarity.span + 1)
    return range(least, len(video) - similarity.span - run_length(video) + 1)


def find_loop(video: Video, similarity: Similarity, moving: Flags) -> Repeats:
    """Frames that repeat the ones a lag before them.

    One lag for the whole video: a loop keeps its own, while periodic motion of real things is now faster, now slower.

    Args:
        moving: [T] whether a frame moves, see :mod:`vqeval.freeze`.
    """
    frames = np.zeros(len(video), bool)
    run, found = run_length(video), {}
    for lag in _lags(video, similarity):
        later = np.arange(lag + similarity.span, len(video))
        pairs = _repeated(similarity, moving, run, later, later - lag, back=False)
        if pairs.repeated.any():
            found[lag] = pairs
    if not found:
        return Repeats(frames)
    chosen = _lag(similarity, found)
    pairs = found[chosen]
    frames[pairs.later[pairs.repeated]] = True
    # The motion of a run's first pair begins ``span`` frames before it: those frames are repeated as well.
    first = pairs.later[pairs.repeated].min()
    frames[first - similarity.span : first] = True
    return Repeats(frames, chosen)


def told_apart(loop: Repeats, mirror: Repeats) -> tuple[Repeats, Repeats]:
    """Each frame is counted once: by the loop or by there-and-back, whichever explains more of the video.

    In a loop of a swaying head some pictures also come back in reverse, and there-and-back of it also repeats forwards.
    """
    both = loop.frames & mirror.frames
    if loop.share >= mirror.share:
        mirror = replace(mirror, frames=mirror.frames & ~both)
    else:
        loop = replace(loop, frames=loop.frames & ~both)
    return loop if loop.frames.any() else Repeats(loop.frames), mirror if mirror.frames.any() else Repeats(
        mirror.frames
    )


def _lag(similarity: Similarity, found: dict[int, _Run]) -> int:
    """The lag that explains the loop: the shortest of those with most repeated frames, to the frame."""
    counts = {lag: int(pairs.repeated.sum()) for lag, pairs in found.items()}
    shortest = min(lag for lag, count in counts.items() if count >= 0.75 * max(counts.values()))
    for parts in (2, 3):  # shaking hides more of some lags' repeats than of others'
        part = [lag for lag in counts if abs(parts * lag - shortest) <= parts and counts[lag] >= counts[shortest] / 3]
        if part:
            shortest = max(part, key=counts.__getitem__)
            break
    near = [shortest]
    while near[-1] + 1 in counts:  # slow motion is the same at neighbouring lags too
        near.append(near[-1] + 1)

    def apart(lag: int) -> float:
        pairs = found[lag]
        return float(np.median(similarity.squared(pairs.later[pairs.repeated], pairs.earlier[pairs.repeated])))

    return min((lag for lag in near if counts[lag] >= 0.75 * counts[shortest]), key=apart)


def find_mirror(video: Video, similarity: Similarity, moving: Flags) -> Repeats:
    """Frames that repeat, backwards, those before a turn."""
    frames = np.zeros(len(video), bool)
    run, counts = run_length(video), {}
    for total, later in _mirrored(video, similarity, run):
        pairs = _repeated(similarity, moving, run, later, total - later, back=True)
        if pairs.repeated.any():
            frames[later[pairs.repeated]] = True
            counts[total] = int(pairs.repeated.sum())
    best = sorted(counts, key=lambda total: (-counts[total], total))
    return Repeats(frames, None, tuple(total / 2 for total in best))


def _mirrored(video: Video, similarity: Similarity, run: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """For each turn, twice its frame, the frames behind it that have a mirror image before it."""
    count, gap = len(video), max(video.steps(LEAST_LAG_SECONDS), 2 * similarity.span)
    for total in range(gap, 2 * count - gap):
        first = max((total + gap + 1) // 2, similarity.span, total - (count - 1) + similarity.span)
        last = min(count - 1, total)
        if last - first + 1 >= run:
            yield total, np.arange(first, last + 1)

"""One video measured: the dimensions without weights, and what their pictures are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqeval import course, freeze, repeats, scores
from vqeval.repeats import TOO_LITTLE_MOTION, Repeats
from vqeval.result import Dimension
from vqeval.similarity import Similarity, boxed, noise_level
from vqeval.steady import steadied
from vqeval.video import Video


@dataclass(frozen=True)
class Analysis:
    """A measured video.

    Args:
        still: [T - h] whether a frame stands still. moving: [T] whether it does not.
        loop, mirror: None where there is too little motion to judge.
        noise_level: standard deviation of the noise of the small pictures, in levels of 0..255.
    """

    video: Video
    noise_level: float
    similarity: Similarity
    still: NDArray[np.bool_]
    moving: NDArray[np.bool_]
    loop: Repeats | None
    mirror: Repeats | None
    motion: course.Motion

    @classmethod
    def of(cls, video: Video) -> Analysis:
        """Measure a decoded video."""
        blurred = boxed(video.luma)
        level = noise_level(video.luma, blurred)
        steady = [Similarity.of(video, boxed(pictures), level) for pictures in steadied(video.luma, video.rate)]
        still = freeze.still(video, blurred, level)
        moving = freeze.moving(still, len(video))
        loop = mirror = None
        if moving.mean() >= repeats.LEAST_MOVING:
            loop, mirror = repeats.told_apart(
                *(
                    max((find(video, guess, moving) for guess in steady), key=lambda repeats: repeats.share)
                    for find in (repeats.find_loop, repeats.find_mirror)
                )
            )
        return cls(
            video=video,
            noise_level=level,
            similarity=Similarity.of(video, blurred, level),
            still=still,
            moving=moving,
            loop=loop,
            mirror=mirror,
            motion=course.motion(video),
        )

    def dimensions(self, reference: Analysis | None = None) -> dict[str, Dimension]:
        """The dimensions without weights, by name.

        Args:
            reference: the same prompt and seed at the training length, for what has no scale of its own.
        """
        return {
            "freeze": _share(float(self.still.mean()), "share of frames that stand still"),
            "loop": self._repeats(self.loop, "share of frames that repeat earlier ones"),
            "mirror": self._repeats(self.mirror, "share of frames that repeat earlier ones backwards"),
            "return": self._return(),
            "motion": self._motion(reference),
            "flicker": _amount("flicker", course.flicker(self.video), "levels of 255"),
            "drift": self._drift(),
            "blur": _amount("blur", course.usual(self.video.traits.blur), "0 to 1"),
            "noise": _amount("noise", course.usual(self.video.traits.noise), "levels of 255"),
        }

    def _repeats(self, found: Repeats | None, unit: str) -> Dimension:
        if found is None:
            return Dimension(unit=unit, reason=TOO_LITTLE_MOTION)
        least = repeats.LEAST_LAG_SECONDS + repeats.RUN_SECONDS
        if self.video.seconds < 2 * least:
            return Dimension(unit=unit, reason=f"too short to repeat anything: {self.video.seconds:.2g} s")
        lag = None if found.lag is None else found.lag / self.video.rate
        return _share(found.share, unit, lag)

    def _return(self) -> Dimension:
        unit = "least distance to the first picture, over the usual one"
        found = course.return_to_start(self.similarity) if self.loop is not None else None
        if found is None:
            return Dimension(unit=unit, counted=False, reason=TOO_LITTLE_MOTION)
        value, frame = found
        score = scores.of_ratio(2 * value)
        return Dimension(
            value=value, score=score, unit=unit, counted=False, details={"seconds": frame / self.video.rate}
        )

    def _motion(self, reference: Analysis | None) -> Dimension:
        unit, value = "per cent of the diagonal a second", self.motion.mean
        if reference is None:
            reason = "motion has no scale of its own: give the video at the training length with --reference"
            return Dimension(value=value, unit=unit, counted=False, reason=reason)
        usual = reference.motion.mean
        if not reference.moving.any() or usual <= 0:
            return Dimension(value=value, unit=unit, counted=False, reason="the reference does not move")
        details = {"reference": usual, "ratio": value / usual}
        return Dimension(value=value, score=scores.of_ratio(value / usual), unit=unit, details=details)

    def _drift(self) -> Dimension:
        found = course.drift(self.video.traits)
        largest = max(abs(change) for change in found.values())
        unit = "largest change from the first to the last 15 %, as a natural logarithm"
        return Dimension(value=largest, score=scores.of_amount("drift", largest), unit=unit, details=found)


def _share(value: float, unit: str, lag: float | None = None) -> Dimension:
    return Dimension(value=value, score=scores.of_share(value), unit=unit, lag_seconds=lag)


def _amount(name: str, value: float | None, unit: str) -> Dimension:
    if value is None:
        return Dimension(unit=unit, reason="every picture has a single colour")
    return Dimension(value=value, score=scores.of_amount(name, value), unit=unit)

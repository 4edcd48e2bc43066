"""Frames that stand still."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vqeval.similarity import BOX
from vqeval.video import Video

#: Seconds within which a frame has to change. Over a single frame a slow pan of a real camera stands still.
SPAN_SECONDS = 0.25
#: Change in levels of 0..255 below which nothing is seen, where there is no noise.
LEAST_CHANGE = 1.5
#: The part of a picture that may stand still in a moving frame: the change of the most changed 2 % decides.
QUANTILE = 0.98


def changes(video: Video, blurred: NDArray[np.float32]) -> NDArray[np.float64]:
    """[T - h] how much of its most changed part each frame changes within ``SPAN_SECONDS``, in levels.

    Args:
        blurred: [T, h, w] the small pictures, blurred.
    """
    span = min(video.steps(SPAN_SECONDS), len(video) - 1)
    kept = int(QUANTILE * (blurred[0].size - 1))
    found = [
        float(np.partition(np.abs(after - before), kept, axis=None)[kept])
        for before, after in zip(blurred[:-span], blurred[span:], strict=True)
    ]
    return np.array(found)


def still(changes: NDArray[np.float64], noise_level: float) -> NDArray[np.bool_]:
    """[T - h] which frames stand still: their change is not above what the noise of the video makes.

    Args:
        noise_level: standard deviation of the noise of the small pictures, in levels.
    """
    floor = max(LEAST_CHANGE, 3 * noise_level * 2**0.5 / BOX)
    found: NDArray[np.bool_] = changes <= floor
    return found


def moving(still: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """[T] which frames move; the last ones as the one before them."""
    return ~np.concatenate([still, np.repeat(still[-1:], count - len(still))])

"""Frames that stand still."""

from __future__ import annotations

import cv2
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


#: Noise, unlike motion, changes pictures over the span by no more than this times what it does from one to the next...
_NO_GROWTH = 1.15
#: ... and by no more than so many levels: fast motion, too, may not grow over the span.
_MOST_NOISE = 4.0


def changes(blurred: NDArray[np.float32], span: int) -> NDArray[np.float64]:
    """[T - span] how much its most changed part changes from each picture to that ``span`` later, in levels.

    Args:
        blurred: [T, h, w] the small pictures, blurred.
    """
    kept = int(QUANTILE * (blurred[0].size - 1))
    found = [
        float(np.partition(cv2.absdiff(before, after), kept, axis=None)[kept])
        for before, after in zip(blurred[:-span], blurred[span:], strict=True)
    ]
    return np.array(found)


def still(video: Video, blurred: NDArray[np.float32], noise_level: float) -> NDArray[np.bool_]:
    """[T - h] which frames stand still: what changes in h frames, a quarter of a second, is not above the noise.

    The noise is known from its level, or from the change between neighbours where an encoder has given it a shape.

    Args:
        blurred: [T, h, w] the small pictures, blurred. noise_level: of those before, a standard deviation in levels.
    """
    span = min(video.steps(SPAN_SECONDS), len(video) - 1)
    change = changes(blurred, span)
    found: NDArray[np.bool_] = change <= max(LEAST_CHANGE, 3 * noise_level * 2**0.5 / BOX)
    if span > 1:
        step = np.median(np.lib.stride_tricks.sliding_window_view(changes(blurred, 1), span), axis=1)
        growth = np.pad(change / np.maximum(step, 1e-3), span, mode="edge")
        usual = np.median(np.lib.stride_tricks.sliding_window_view(growth, 2 * span + 1), axis=1)
        found |= (usual <= _NO_GROWTH) & (change <= _MOST_NOISE)
    return found


def moving(still: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """[T] which frames move; the last ones as the one before them."""
    return ~np.concatenate([still, np.repeat(still[-1:], count - len(still))])

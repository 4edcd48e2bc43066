"""Take the shaking of a camera out of small pictures, so that a loop is found under it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vqeval.similarity import Floats

#: Seconds of the running median that a camera's path is compared with.
_SMOOTH_SECONDS = 0.6
#: How much further from one place than from its smooth path a camera is at most that may stand there.
_FAR = 3.0
#: Pixels of the small pictures below which shaking is left as it is.
_LEAST_SHIFT = 0.3
#: Pixels by which shaking can make a step differ from those around it; what differs more is a cut.
_MOST_SHIFT = 8.0
#: Peak of the phase correlation below which two pictures do not show the same thing moved.
_LEAST_RESPONSE = 0.1


def steadied(pictures: NDArray[np.float32], rate: float) -> list[NDArray[np.float32]]:
    """Pictures [T, h, w] moved back by how far the camera is off where it would be without shaking; one or two guesses.

    Its path adds up the shifts between neighbours, found by phase correlation; a cut is no shift. It would be on the
    smooth path, so that pans stay; or, in a direction in which it does not go far, in one place, which is known better.
    """
    path = _path(pictures, rate)
    smooth = path - _running_median(path, _half(rate))
    still = path - np.median(path, axis=0)
    still = np.where(still.std(axis=0) <= _FAR * smooth.std(axis=0), still, smooth)
    other = np.abs(still - smooth).max() > _LEAST_SHIFT
    return [_moved(pictures, off) for off in (smooth, still)[: 1 + other]]


def _moved(pictures: NDArray[np.float32], off: Floats) -> NDArray[np.float32]:
    """Pictures moved back by ``off`` [T, 2] pixels, where that is worth it."""
    found = pictures.copy()
    for number in np.flatnonzero(np.abs(off).max(axis=1) > _LEAST_SHIFT):
        x, y = off[number]
        matrix = np.array([[1, 0, -x], [0, 1, -y]], np.float64)
        size = pictures.shape[2], pictures.shape[1]
        found[number] = cv2.warpAffine(pictures[number], matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return found


def _half(rate: float) -> int:
    """Frames on each side of the running median."""
    return max(2, round(_SMOOTH_SECONDS * rate / 2))


def _path(pictures: NDArray[np.float32], rate: float) -> Floats:
    """[T, 2] how far each picture is right of and below the first one, in pixels."""
    count = len(pictures)
    steps = np.zeros((count, 2))
    window = cv2.createHanningWindow((pictures.shape[2], pictures.shape[1]), cv2.CV_32F)
    # Not by OpenCV, which writes the product into the pictures themselves where it need not pad them.
    faded = pictures * window
    for number in range(1, count):
        shift, response = cv2.phaseCorrelate(faded[number - 1], faded[number])
        if response >= _LEAST_RESPONSE:
            steps[number] = shift
    usual = _running_median(steps, _half(rate))
    cuts = np.abs(steps - usual).max(axis=1) > _MOST_SHIFT
    steps[cuts] = usual[cuts]
    found: Floats = np.cumsum(steps, axis=0)
    return found


def _running_median(values: Floats, half: int) -> Floats:
    """[T, 2] the median of ``half`` neighbours on both sides; beyond the ends the course goes on as within."""
    half = min(half, len(values) - 1)
    padded = np.pad(values, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=0)
    found: Floats = np.median(windows, axis=-1)
    return found

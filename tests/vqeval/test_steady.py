"""Shaking is taken out of copies, for pictures of every size."""

import cv2
import numpy as np
import pytest

from vqeval.steady import steadied


@pytest.mark.parametrize("side", [64, 67, 90])
def test_the_pictures_stay_as_they_are_and_the_shaking_goes(side: int) -> None:
    """OpenCV works in the pictures themselves where it need not pad them for the Fourier transform, as at 64 and 90."""
    still = 255 * cv2.blur(np.random.default_rng(0).random((side, side), np.float32), (7, 7))
    shifts = np.random.default_rng(1).integers(-2, 3, (24, 2))
    shaken = np.stack([np.roll(still, tuple(shift), (0, 1)) for shift in shifts])
    before = shaken.copy()
    steady = steadied(shaken, 16.0)[0]
    assert np.array_equal(shaken, before)
    assert np.array_equal(steadied(shaken, 16.0)[0], steady)
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert steady[inner].std(axis=0).mean() < 0.7 * shaken[inner].std(axis=0).mean()

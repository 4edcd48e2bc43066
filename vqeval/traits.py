"""What is measured on each picture by itself: sharpness, saturation, contrast, brightness, blur, noise."""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Floats = NDArray[np.float64]

#: Immerkaer (1996), "Fast noise variance estimation": blind to slopes, so that mostly noise is left; its norm is 6.
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
#: Normal deviate to median absolute deviation.
MAD = 0.6745
#: The noise of a larger picture is that of about so many of its pixels.
_NOISE_PIXELS = 50_000
#: Width in pixels of the box that :func:`blur` blurs with.
_REBLUR = 9


@dataclass(frozen=True)
class Traits:
    """One number for each picture of a video, each field [T].

    Args:
        sharpness: standard deviation of the Laplacian of the luma, in levels of 0..255.
        saturation: mean of the largest minus the smallest colour, 0..1. contrast: standard deviation of the luma, 0..1.
        brightness: mean of the luma, 0..1. blur: see :func:`blur`, NaN for a picture of one colour.
        noise: standard deviation of the noise in levels of 0..255.
    """

    sharpness: Floats
    saturation: Floats
    contrast: Floats
    brightness: Floats
    blur: Floats
    noise: Floats

    def at(self, index: NDArray[np.intp]) -> Traits:
        """Those of the pictures with these numbers."""
        return Traits(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def measure(rgb: Picture, luma: NDArray[np.float32]) -> tuple[float, ...]:
    """The fields of :class:`Traits` for one picture.

    Args:
        rgb: [H, W, 3]. luma: [H, W] in 0..255.
    """
    mean, deviation = (float(x[0, 0]) for x in cv2.meanStdDev(luma))
    some = np.ascontiguousarray(rgb[::3, ::3])
    red, green, blue = cv2.split(some)
    colour = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    return (
        float(cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_32F))[1][0, 0]),
        cv2.mean(colour)[0] / 255,
        deviation / 255,
        mean / 255,
        blur(luma),
        noise(luma),
    )


def blur(luma: NDArray[np.float32]) -> float:
    """How blurred a picture is, 0 (sharp) to 1; NaN for one colour.

    A sharp picture loses much of its differences between neighbours when it is blurred again, a blurred one little:
    Crete and others (2007), "The blur effect: perception and estimation with a new no-reference perceptual blur
    metric".
    """
    worst = np.nan
    for kernel, first, second in (
        ((1, _REBLUR), np.s_[1:, :], np.s_[:-1, :]),
        ((_REBLUR, 1), np.s_[:, 1:], np.s_[:, :-1]),
    ):
        blurred = cv2.blur(luma, kernel)
        steps, again = cv2.absdiff(luma[first], luma[second]), cv2.absdiff(blurred[first], blurred[second])
        total = cv2.sumElems(steps)[0]
        # Below a hundredth of a level a pixel there is nothing but rounding.
        if total > 0.01 * steps.size:
            worst = np.fmax(worst, cv2.sumElems(cv2.min(steps, again))[0] / total)
    return float(worst)


def noise(luma: NDArray[np.float32]) -> float:
    """Standard deviation of the noise of a picture, in levels; by the median, so that edges do not count."""
    response = cv2.filter2D(luma, cv2.CV_32F, _NOISE_KERNEL)[1:-1, 1:-1]
    step = max(1, round((response.size / _NOISE_PIXELS) ** 0.5))
    return float(np.median(np.abs(response[::step, ::step]))) / MAD

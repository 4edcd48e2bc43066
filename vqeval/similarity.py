"""How alike the pictures of a video are, each with each, and how alike their motion is.

All of it follows from the products of the pictures with each other, which are computed in whole numbers: a product of
float64 numbers that are whole and small is exact, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from vqeval.traits import MAD
from vqeval.video import Video

Floats = NDArray[np.float64]

#: Side of the box, in small pixels, that pictures are blurred with before they are compared: noise averages out.
BOX = 5
#: Span in seconds over which motion is compared; a video of 8 frames a second or less has one frame.
MOTION_SPAN = 0.25
#: Levels of 0..255 that a picture's deviation counts as at least: dark and even pictures are not blown up.
_LEAST_DEVIATION = 0.02 * 255
#: Whole numbers in a deviation: 4096 at 16 deviations; a sum of 4000 squares stays far below 2**53.
_UNIT = 256
_CLIP = 16


def boxed(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Small pictures [T, h, w], each blurred."""
    return np.stack([cv2.blur(picture, (BOX, BOX)) for picture in pictures])


def noise_level(pictures: NDArray[np.float32], blurred: NDArray[np.float32]) -> float:
    """Standard deviation in levels of the noise of small pictures: what changes between neighbours and has no shape.

    The quarter of the steps with the least of it decides, as motion adds to it. Steps without any change are repeated
    pictures and say nothing, unless all are.
    """
    deviations = []
    for step in range(len(pictures) - 1):
        change = (pictures[step + 1] - pictures[step]) - (blurred[step + 1] - blurred[step])
        deviations.append(float(np.median(np.abs(change))) / MAD / 2**0.5)
    found = np.array([deviation for deviation in deviations if deviation > 1e-3])
    return float(np.quantile(found, 0.25)) if len(found) else 0.0


@dataclass(frozen=True)
class Similarity:
    """Products of a video's pictures; T pictures, all in units of a picture's own deviation.

    Args:
        products: [T, T] mean product of two pictures, whose means are taken off and whose deviation is 1.
        noise: [T] the part of a picture's own product that is noise.
        span: frames over which motion is taken.
    """

    products: Floats
    noise: Floats
    span: int

    @classmethod
    def of(cls, video: Video, blurred: NDArray[np.float32], noise_level: float) -> Similarity:
        """That of a video.

        Args:
            blurred: [T, h, w] its small pictures after :func:`boxed`. noise_level: of the small pictures before it.
        """
        flat = blurred[:, ::2, ::2].reshape(len(blurred), -1).astype(np.float64)
        flat -= flat.mean(axis=1, keepdims=True)
        deviation = np.maximum(flat.std(axis=1), _LEAST_DEVIATION)
        whole = np.rint(np.clip(flat / deviation[:, None], -_CLIP, _CLIP) * _UNIT)
        products = (whole @ whole.T) / (_UNIT**2 * flat.shape[1])
        return cls(products, (noise_level / BOX / deviation) ** 2, min(video.steps(MOTION_SPAN), len(video) - 1))

    @property
    def distance(self) -> Floats:
        """[T, T] root of the mean squared difference of two pictures, without their noise; 0: the same."""
        own = np.diag(self.products) - self.noise
        squared = own[:, None] + own[None, :] - 2 * self.products
        np.fill_diagonal(squared, 0)
        root: Floats = np.sqrt(np.maximum(squared, 0))
        return root

    def squared(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
        """Mean squared difference of pairs of pictures, without their noise; may be a little below 0."""
        own = np.diag(self.products) - self.noise
        difference: Floats = own[first] + own[second] - 2 * self.products[first, second]
        return difference

    def motion(self, first: NDArray[np.intp], second: NDArray[np.intp], *, back: bool = False) -> Floats:
        """Product of the motion that leads to ``first`` with that which leads to ``second``.

        The motion that leads to a picture is its difference to the one ``span`` earlier. With ``back`` the second is
        played backwards: its difference to the one ``span`` later. The product of a motion with itself holds noise.
        """
        p, before = self.products, first - self.span
        other = second + self.span if back else second - self.span
        product: Floats = p[first, second] - p[before, second] - p[first, other] + p[before, other]
        return product

    @cached_property
    def shake(self) -> float:
        """The part of a motion's product with itself that is no motion but an error of each picture: shaking, grain.

        Smooth motion over two frames has four times the squared difference of that over one; an error of each picture
        has the same.
        """
        if len(self.products) < 3:
            return 0.0
        index = np.arange(2, len(self.products))
        one, two = self.squared(index, index - 1), self.squared(index, index - 2)
        return float(np.median(np.maximum((4 * one - two) / 3, 0)))

    @cached_property
    def energy(self) -> Floats:
        """[T] the product of each motion with itself, without its noise; 0 for the first ``span`` pictures."""
        index = np.arange(self.span, len(self.products))
        found = np.zeros(len(self.products))
        found[index] = np.maximum(self.squared(index, index - self.span), 0)
        return found

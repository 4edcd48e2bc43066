"""What changes in the course of a video: motion, flicker, drift, and the return to the start."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vqeval.similarity import Floats, Similarity
from vqeval.traits import Traits
from vqeval.video import Video

#: Motion is taken between pictures about this far apart, in seconds.
_FLOW_SPAN = 1 / 12
#: Share of a video that is its beginning, and its end (FramePack, arXiv 2504.12626).
_ENDS = 0.15
#: Blocks of a picture, in rows and in columns, whose brightness is followed.
_BLOCKS = 8
#: The part of the frames whose brightness may jump for another reason: a cut makes two of them, and a loop repeats it.
_CUTS = 0.4
#: Least value of a trait that a change is related to, by field of :class:`Traits`.
_LEAST = {"sharpness": 0.5, "saturation": 0.02, "contrast": 0.02, "brightness": 0.02}


@dataclass(frozen=True)
class Motion:
    """Mean motion between neighbouring pictures, in per cent of the picture's diagonal a second, and when."""

    seconds: Floats
    speed: Floats

    @property
    def mean(self) -> float:
        """Over the whole video."""
        return float(self.speed.mean())


def motion(video: Video) -> Motion:
    """Optical flow by Farneback's method of OpenCV on the small pictures at half their size."""
    span = min(video.steps(_FLOW_SPAN), len(video) - 1)
    starts = np.arange(0, len(video) - span, span)
    height, width = (max(8, side // 2) for side in video.luma.shape[1:])
    grey = [_bytes(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)) for picture in video.luma]
    speeds = []
    for start in starts:
        flow = np.zeros((height, width, 2), np.float32)
        flow = cv2.calcOpticalFlowFarneback(grey[start], grey[start + span], flow, 0.5, 3, 11, 2, 5, 1.2, 0)
        # Not cv2.magnitude: its last digits depend on where in memory the arrays lie.
        speeds.append(float(np.linalg.norm(flow.astype(np.float64), axis=-1).mean()))
    factor = 100 * video.rate / span / np.hypot(width, height)
    return Motion(starts / video.rate, np.array(speeds) * factor)


def _bytes(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return found


def flicker(video: Video) -> float:
    """How much the brightness of the whole picture jumps from frame to frame, in levels of 0..255.

    The second difference in time of the mean of each block, the median of the blocks (what moves changes some of them,
    flicker all), and its root mean square over the frames without the largest two fifths, which may be cuts.
    """
    if len(video) < 3:
        return 0.0
    blocks = np.stack([cv2.resize(picture, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA) for picture in video.luma])
    jumps = np.abs(np.median(np.diff(blocks.astype(np.float64), n=2, axis=0), axis=(1, 2)))
    kept = np.sort(jumps)[: max(1, round(len(jumps) * (1 - _CUTS)))]
    return float(np.sqrt((kept**2).mean()))


def drift(traits: Traits) -> dict[str, float]:
    """By how much sharpness, saturation, contrast and brightness differ between the first and the last 15 %.

    The natural logarithm of the end over the beginning: 0.1 is a tenth more, -0.1 a tenth less.
    """
    found = {}
    for name, least in _LEAST.items():
        values = getattr(traits, name)
        count = max(1, round(_ENDS * len(values)))
        first, last = (max(least, float(part.mean())) for part in (values[:count], values[-count:]))
        found[name] = float(np.log(last / first))
    return found


def return_to_start(similarity: Similarity) -> tuple[float, int] | None:
    """How near the video comes to its first picture again, and the frame where.

    The least distance to the first picture behind the first quarter, over the usual one there: 0 is the same picture, 1
    no nearer than usual. None for a video that does not leave its first picture, or has too few frames.
    """
    distance = similarity.distance[0]
    first = max(2, len(distance) // 4)
    far = distance[first:]
    if not len(far) or float(np.median(far)) < 0.02:
        return None
    nearest = int(far.argmin())
    return float(far[nearest] / np.median(far)), first + nearest


def usual(values: NDArray[np.float64]) -> float | None:
    """The median of those that there are; None if there is none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None

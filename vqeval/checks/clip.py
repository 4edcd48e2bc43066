"""A clip in memory: read from a file, written to one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from vqeval.video import sample

Frames = NDArray[np.uint8]

#: OpenCV's number of AVX-512 among its ``CpuFeatures``, which Python has no name for.
AVX_512 = 13
#: x264 at a quality at which nothing is seen; with AVX-512 it makes another file of the same pictures now and then.
GOOD = {"crf": "14", "preset": "veryfast"} | ({"x264-params": "asm=avx2"} if cv2.checkHardwareSupport(AVX_512) else {})


@dataclass(frozen=True)
class Clip:
    """Frames, uint8 [T, H, W, 3] with even sides, and how many there are a second."""

    frames: Frames
    rate: float

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self.frames)

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.frames) / self.rate

    def with_frames(self, frames: Frames) -> Clip:
        """Other frames at the same rate."""
        return replace(self, frames=np.ascontiguousarray(frames))


def load(path: Path, *, seconds: float = 8.0, longest: int = 320, rate: float = 30.0) -> Clip:
    """The beginning of a video, with at most ``rate`` frames a second and no side longer than ``longest`` pixels.

    Raises:
        VideoError: see :func:`vqeval.video.read`.
    """
    pictures, rate = sample(path, rate, 1 << 30, longest=longest, seconds=seconds)
    height, width = (side - side % 2 for side in pictures[0].shape[:2])
    return Clip(np.stack([picture[:height, :width] for picture in pictures]), rate)


def write(clip: Clip, path: Path, *, codec: str = "libx264", options: dict[str, str] | None = None) -> Path:
    """Write a clip as a video whose container follows from the ending of ``path``; returns the path."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=Fraction(clip.rate).limit_denominator(1001), options=GOOD if options is None else options
        )
        stream.height, stream.width = clip.frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path

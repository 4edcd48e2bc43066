"""The engine's frames as an mp4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.offline.files import atomic_path

# ITU-R BT.709, and the narrow range: without the tags players guess from the height and shift the colours.
_BT709 = 1
_NARROW = 1

# With its macroblock tree x264 encodes the same frames differently from one process to the next, and the files of two
# equal videos would differ.
_X264 = {"crf": "18", "x264-params": "mbtree=0"}
_MPEG4 = {"q:v": "2"}


def frames_of(images: Any) -> Iterator[Any]:
    """Frames of one video as uint8 arrays [H, W, 3], whatever nesting the engine returns them in.

    Args:
        images: `OmniRequestOutput.images`: PIL images or arrays [.., H, W, 3], floats in 0..1 or uint8, in lists or
            not; the frames stand in order.

    Raises:
        ValueError: there are no frames, or a frame is not a finite RGB picture.
    """
    import numpy as np

    def walk(value: Any) -> Iterator[Any]:
        if isinstance(value, (list, tuple, Iterator)):
            for item in value:
                yield from walk(item)
            return
        array = np.asarray(value)
        if array.ndim > 3:
            for item in array:
                yield from walk(item)
            return
        if array.ndim != 3 or array.shape[-1] != 3:
            raise ValueError(f"the engine returned a picture of shape {array.shape}, expected [height, width, 3]")
        if array.dtype != np.uint8:
            if not np.isfinite(array).all():
                raise ValueError("the engine returned a picture with NaN or infinite values")
            array = (np.clip(array.astype(np.float32), 0.0, 1.0) * 255.0).round().astype(np.uint8)
        yield array

    empty = True
    for frame in walk(images):
        empty = False
        yield frame
    if empty:
        raise ValueError("the engine returned no frames")


def write_mp4(target: Path, frames: Iterable[Any], fps: float) -> dict[str, Any]:
    """Write frames as H.264 (MPEG-4 Part 2 where PyAV has no x264), yuv420p, BT.709, atomically.

    Args:
        target: the mp4.
        frames: uint8 arrays [H, W, 3] of one even size.
        fps: video frames a second.

    Returns:
        What was written: file, codec, frames, height, width, fps, seconds.

    Raises:
        ValueError: a frame has an odd size or another size than the first.
    """
    import av

    rate = Fraction(fps).limit_denominator(1001)
    codec, options = ("libx264", _X264) if "libx264" in av.codecs_available else ("mpeg4", _MPEG4)
    count, size = 0, (0, 0)
    with (
        atomic_path(target) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _NARROW
        for frame in frames:
            height, width = frame.shape[:2]
            if count == 0:
                if height % 2 or width % 2:
                    raise ValueError(f"a picture of {width}x{height} cannot be an mp4, both sides must be even")
                stream.width, stream.height = width, height
                size = (height, width)
            elif (height, width) != size:
                raise ValueError(f"picture {count} is {width}x{height}, the first is {size[1]}x{size[0]}")
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="itu709")))
            count += 1
        container.mux(stream.encode(None))
    return {
        "file": target.name,
        "codec": codec,
        "frames": count,
        "height": size[0],
        "width": size[1],
        "fps": float(fps),
        "seconds": round(count / float(rate), 3),
    }

"""A video as it is measured: decoded once, picture by picture, and kept small."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from vqeval.errors import VideoError
from vqeval.traits import Picture, Traits, measure

#: Pixels of the small pictures: 160 x 90, in the video's own shape.
SMALL_AREA = 160 * 90
#: Smallest side of a video, in pixels.
SMALLEST_SIDE = 16
#: Frames a second that motion can be judged at: fewer are refused, of more every second, third, ... frame is taken.
SLOWEST, FASTEST = 6.0, 60.0
#: Of a longer video every second, fourth, ... frame is taken.
MOST_FRAMES = 3000
#: Longest side in pixels of the pictures that learned dimensions look at.
LONGEST_SAMPLE = 1024
#: About so many pictures are kept in colour, for the film strip.
_COLOURED = 48

Progress = Callable[[int, int], None]
Pixel = TypeVar("Pixel", np.uint8, np.float32)


@dataclass(frozen=True)
class Video:
    """A decoded video.

    Args:
        width, height: in pixels. decoded: how many frames the file has. seconds: its length.
        rate: frames a second of what is kept. variable: whether the file's frames were not evenly spaced.
        luma: [T, h, w] small grey pictures in 0..255, evenly spaced in time. traits: of the same T pictures.
        stills: small pictures in colour, uint8 [h, w, 3], with their time in seconds.
        digest: SHA-256 of the file.
    """

    path: Path
    width: int
    height: int
    decoded: int
    seconds: float
    rate: float
    variable: bool
    luma: NDArray[np.float32]
    traits: Traits
    stills: tuple[tuple[float, Picture], ...]
    digest: str

    def __len__(self) -> int:
        """How many pictures are kept."""
        return len(self.luma)

    def steps(self, seconds: float) -> int:
        """A span of time in frames, at least one."""
        return max(1, round(seconds * self.rate))


def read(path: str | Path, progress: Progress | None = None) -> Video:
    """Decode a video in any container that FFmpeg reads, in its own colour matrix and range.

    Args:
        progress: called with the number of frames decoded and the number expected, 0 if that is unknown.

    Raises:
        VideoError: it cannot be read, breaks off, or is too short, too small or too slow; one sentence.
    """
    path, kept = Path(path), _Kept()
    with _opened(path) as container:
        for time, frame in _frames(path, container, progress):
            kept.add(time, frame)
    if kept.count < 2:
        found = "one frame" if kept.count else "no frames"
        raise VideoError(f"{path}: has {found}; a video of at least two frames is needed")
    return _evenly_spaced(path, kept)


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """A file of FFmpeg; what goes wrong with it is one sentence."""
    if not path.is_file():
        raise VideoError(f"{path}: there is no such file")
    opened = False
    try:
        with av.open(str(path)) as container:
            opened = True
            yield container
    except (av.FFmpegError, EOFError) as error:
        what = "breaks off" if opened else "is not a video that FFmpeg can read"
        raise VideoError(f"{path}: {what} ({getattr(error, 'strerror', None) or error})") from None


def _frames(path: Path, container: InputContainer, progress: Progress | None) -> Iterator[tuple[float, av.VideoFrame]]:
    """The frames of the first video stream with their times in seconds."""
    if not container.streams.video:
        raise VideoError(f"{path}: holds no video" + (", only sound" if container.streams.audio else ""))
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    expected, count, end, shown = stream.frames, 0, 0.0, 0.0
    for frame in container.decode(stream):
        if min(frame.width, frame.height) < SMALLEST_SIDE:
            size = f"{frame.width} x {frame.height} pixels"
            raise VideoError(f"{path}: {size} are too few, {SMALLEST_SIDE} x {SMALLEST_SIDE} are needed")
        end = count / rate if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        yield end, frame
        count += 1
        shown = end + float((frame.duration or 0) * (frame.time_base or 0))
        if progress:
            progress(count, expected)
    # A file that was cut off often ends without an error. An edit list that hides frames also shortens the duration.
    base = float(stream.time_base or 0)
    length, start = (stream.duration or 0) * base, (stream.start_time or 0) * base
    if not expected and not container.streams.audio:  # Matroska knows the length of the whole file
        length = length or (container.duration or 0) / av.time_base
    if count and length - (shown - start) > 3 / rate and (not expected or expected - count > 2):
        many = f"{count} of {expected} frames" if expected else f"{shown - start:.2f} of {length:.2f} s"
        raise VideoError(f"{path}: breaks off after {many}; copy or generate it again")


class _Kept:
    """What is kept of the frames while they pass."""

    def __init__(self) -> None:
        self.count, self.stride = 0, 1
        self.size = (0, 0)
        self.times: list[float] = []
        self.luma: list[NDArray[np.float32]] = []
        self.traits: list[tuple[float, ...]] = []
        self.stills: list[tuple[float, Picture]] = []
        self._still_stride = 1

    def add(self, time: float, frame: av.VideoFrame) -> None:
        """Measure a frame and keep it small."""
        if self.count == 0:
            self.size = (frame.width, frame.height)
        number, self.count = self.count, self.count + 1
        if number % self.stride:
            return
        rgb = pixels(frame)
        if (frame.width, frame.height) != self.size:  # a stream may change its size on the way
            rgb = resized(rgb, *self.size)
        factor = min(1.0, (SMALL_AREA / (self.size[0] * self.size[1])) ** 0.5)
        width, height = (max(8, round(side * factor)) for side in self.size)
        luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
        self.times.append(time)
        self.luma.append(resized(luma, width, height))
        self.traits.append(measure(rgb, luma))
        if len(self.luma) > MOST_FRAMES:
            self.stride *= 2
            self.times, self.luma, self.traits = self.times[::2], self.luma[::2], self.traits[::2]
        if number % self._still_stride == 0:
            self.stills.append((time, resized(rgb, width, height)))
            if len(self.stills) > _COLOURED:
                self._still_stride *= 2
                self.stills = self.stills[::2]


def pixels(frame: av.VideoFrame) -> Picture:
    """A frame as RGB [H, W, 3]; a file that does not name its colour matrix has the usual one of its height."""
    matrix = None
    if frame.colorspace == Colorspace.DEFAULT or frame.colorspace == 2:  # 2: unspecified
        large = frame.height >= 720
        matrix = Colorspace.ITU709 if large else Colorspace.ITU601
    return np.asarray(frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray(), np.uint8)


def _evenly_spaced(path: Path, kept: _Kept) -> Video:
    """The kept pictures at one rate, whatever the file's times were."""
    times = np.array(kept.times)
    gaps = np.diff(times)
    if (gaps <= 0).any():  # times that go back or stand still: only the order is known
        times = np.linspace(0, max(times.max() - times.min(), len(times) / FASTEST), len(times))
        gaps = np.diff(times)
    usual = float(np.median(gaps))
    variable = bool((np.abs(gaps - usual) > 0.5 * usual).mean() > 0.01)
    if variable:
        # The median gap is that of the moving parts: a held frame is shown for many of them.
        rate = 1 / max(usual, 1 / FASTEST)
        grid = times[0] + np.arange(int((times[-1] - times[0]) * rate) + 1) / rate
        index = np.searchsorted(times, grid + 1e-6, side="right") - 1
        index = index[:: 1 + len(index) // MOST_FRAMES]
        rate /= 1 + len(grid) // MOST_FRAMES
    else:
        rate = (len(times) - 1) / float(times[-1] - times[0])
        step = int(np.ceil(rate / FASTEST - 0.05))
        index, rate = np.arange(0, len(times), max(1, step)), rate / max(1, step)
    seconds = float(times[-1] - times[0]) + usual
    if rate < SLOWEST and kept.stride > 1:
        most = MOST_FRAMES / SLOWEST
        raise VideoError(f"{path}: {seconds:.0f} s are too long; cut it into parts of at most {most:.0f} s")
    if rate < SLOWEST:
        raise VideoError(f"{path}: has {rate:.2g} frames a second; motion can be judged from {SLOWEST:g} on")
    start = float(times[0])
    return Video(
        path=path,
        width=kept.size[0],
        height=kept.size[1],
        decoded=kept.count,
        seconds=seconds,
        rate=rate,
        variable=variable,
        luma=np.stack([kept.luma[i] for i in index]),
        traits=Traits(*np.array(kept.traits, np.float64).T).at(index),
        stills=tuple((time - start, still) for time, still in kept.stills),
        digest=digest(path),
    )


def sample(
    path: Path, rate: float, most: int, *, longest: int = LONGEST_SAMPLE, seconds: float = float("inf")
) -> tuple[list[Picture], float]:
    """Evenly spaced pictures [H, W, 3] of a video, and how many there are a second.

    Args:
        rate: pictures a second, fewer where the video has fewer or ``most`` would be exceeded.
        longest: longest side in pixels. seconds: of the video, from its start.

    Raises:
        VideoError: as :func:`read`.
    """
    pictures: list[Picture] = []
    times: list[float] = []
    gap = 1 / rate
    with _opened(path) as container:
        for time, frame in _frames(path, container, None):
            if times and time < times[-1] + gap - 1e-3:
                continue
            if times and time >= times[0] + seconds:
                break
            picture = pixels(frame)
            factor = longest / max(picture.shape[:2])
            if factor < 1:
                picture = resized(picture, round(picture.shape[1] * factor), round(picture.shape[0] * factor))
            pictures.append(picture)
            times.append(time)
            if len(pictures) > most:
                pictures, times, gap = pictures[::2], times[::2], 2 * gap
    return pictures, (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else rate


def resized(picture: NDArray[Pixel], width: int, height: int) -> NDArray[Pixel]:
    """A picture in another size, by the mean over the area of each new pixel."""
    found = cv2.resize(picture, (max(1, width), max(1, height)), interpolation=cv2.INTER_AREA)
    return np.asarray(found, picture.dtype)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()

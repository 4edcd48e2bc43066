"""Clips that are rendered: kinds of camera and motion, and pictures that are no motion at all."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from vqeval.checks.clip import Clip

Scene = Callable[..., Clip]
Image = NDArray[np.float32]

SIZE = (160, 96)
RATE = 16.0


def texture(size: tuple[int, int], seed: int) -> Image:
    """A picture [H, W, 3] with detail of all sizes, in 0..255."""
    generator = np.random.default_rng(seed)
    width, height = size
    found = np.zeros((height, width, 3), np.float32)
    for cell in (64, 32, 16, 8, 4):
        coarse = generator.normal(0, cell**0.7, (height // cell + 3, width // cell + 3, 3)).astype(np.float32)
        found += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    found -= found.mean(axis=(0, 1))
    picture: Image = np.clip(128 + found * (48 / found.std()), 0, 255)
    return picture


def wander(generator: np.random.Generator, count: int, smooth: float, dimensions: int = 1) -> NDArray[np.float64]:
    """[count, dimensions] a random path without period, of deviation 1; ``smooth`` frames from turn to turn."""
    steps = generator.normal(size=(count + 8 * int(smooth + 1), dimensions))
    path = cv2.GaussianBlur(steps, (1, 0), sigmaX=0.01, sigmaY=smooth) if smooth > 0 else steps
    path = path[-count:]
    deviation = np.maximum(path.std(axis=0), 1e-9)
    found: NDArray[np.float64] = (path - path.mean(axis=0)) / deviation
    return found


def view(picture: Image, x: float, y: float, zoom: float, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """What a camera sees of a picture from a place between pixels on."""
    matrix = np.array([[1 / zoom, 0, x], [0, 1 / zoom, y]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT)
    clipped: NDArray[np.uint8] = np.clip(seen, 0, 255).round().astype(np.uint8)
    return clipped


def _clip(frames: list[NDArray[np.uint8]], rate: float, grain: float = 1.0, seed: int = 0) -> Clip:
    """Frames with a camera's grain."""
    generator = np.random.default_rng(seed)
    stack = np.stack(frames).astype(np.float32)
    if grain:
        stack += generator.normal(0, grain, stack.shape).astype(np.float32)
    return Clip(np.clip(stack, 0, 255).round().astype(np.uint8), rate)


def pan(count: int = 96, seed: int = 0, rate: float = RATE) -> Clip:
    """A camera turns over a landscape, not quite evenly."""
    generator = np.random.default_rng(seed)
    places = 1.6 * np.arange(count) * (16 / rate) + 3 * wander(generator, count, 12)[:, 0]
    picture = texture((int(places.max()) + 2 * SIZE[0], 2 * SIZE[1]), seed)
    return _clip([view(picture, 20 + x, 30 + 0.1 * x, 1.0) for x in places], rate, seed=seed)


def hand_held(count: int = 96, seed: int = 1, rate: float = RATE) -> Clip:
    """A camera that a person holds walks towards something."""
    generator = np.random.default_rng(seed)
    picture = texture((3 * SIZE[0], 3 * SIZE[1]), seed)
    shake = 2.5 * wander(generator, count, 2.5, 2) + 8 * wander(generator, count, 15, 2)
    zooms = 1 + 0.6 * np.arange(count) / count
    centre = np.array([1.5 * SIZE[0], 1.5 * SIZE[1]])
    corners = [centre + move - np.array(SIZE) / 2 / zoom for move, zoom in zip(shake, zooms, strict=True)]
    return _clip([view(picture, x, y, z) for (x, y), z in zip(corners, zooms, strict=True)], rate, seed=seed)


def animation(count: int = 96, seed: int = 2, rate: float = RATE) -> Clip:
    """Shapes of one colour each move on paths of their own; no grain."""
    generator = np.random.default_rng(seed)
    colours = [tuple(int(c) for c in generator.integers(30, 240, 3)) for _ in range(5)]
    paths = [wander(generator, count, 8, 2) for _ in colours]
    frames = []
    for number in range(count):
        frame = np.full((SIZE[1], SIZE[0], 3), (200, 190, 160), np.uint8)
        for k, (colour, path) in enumerate(zip(colours, paths, strict=True)):
            x, y = (np.array(SIZE) * (0.5 + 0.22 * path[number])).round().astype(int)
            cv2.circle(frame, (int(x), int(y)), 8 + 3 * k, colour, -1, cv2.LINE_AA)
        frames.append(frame)
    return _clip(frames, rate, grain=0)


def slide(count: int = 96, seed: int = 3, rate: float = RATE) -> Clip:
    """A photograph, slowly zoomed into."""
    picture = texture((2 * SIZE[0], 2 * SIZE[1]), seed)
    zooms = 1 + 0.012 * np.arange(count) * (16 / rate)
    corners = [(SIZE[0] * (1 - 0.5 / z), SIZE[1] * (1 - 0.5 / z)) for z in zooms]
    return _clip([view(picture, x, y, z) for (x, y), z in zip(corners, zooms, strict=True)], rate, seed=seed)


def talking_head(count: int = 96, seed: int = 4, rate: float = RATE) -> Clip:
    """A head moves a little in front of a still wall, and the mouth opens and shuts."""
    generator = np.random.default_rng(seed)
    wall = texture(SIZE, seed)
    sway, mouth = wander(generator, count, 10, 2), wander(generator, count, 1.5)[:, 0]
    frames = []
    for number in range(count):
        frame = wall.copy()
        x, y = (int(v) for v in np.array([80, 48]) * 16 + sway[number] * 3 * 16)
        ellipse = {"lineType": cv2.LINE_AA, "shift": 4}
        cv2.ellipse(frame, (x, y), (24 * 16, 32 * 16), 0, 0, 360, (196, 154, 130), -1, **ellipse)
        for side in (-1, 1):
            cv2.ellipse(
                frame, (x + side * 9 * 16, y - 8 * 16), (3 * 16, 2 * 16), 0, 0, 360, (40, 30, 30), -1, **ellipse
            )
        opening = int(16 * (1.5 + 2.5 * max(0.0, mouth[number])))
        cv2.ellipse(frame, (x, y + 14 * 16), (8 * 16, opening), 0, 0, 360, (120, 40, 50), -1, **ellipse)
        frames.append(np.clip(frame, 0, 255).round().astype(np.uint8))
    return _clip(frames, rate, seed=seed)


def waves(count: int = 96, seed: int = 5, rate: float = RATE) -> Clip:
    """Water: many waves, each with a length and a speed of its own, so that nothing comes back."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]].astype(np.float64)
    lengths, angles = generator.uniform(10, 60, 24), generator.normal(0, 0.5, 24)
    phases = generator.uniform(0, 2 * np.pi, 24)
    frames = []
    for number in range(count):
        height = np.zeros_like(x)
        for length, angle, phase in zip(lengths, angles, phases, strict=True):
            speed = 1.6 * np.sqrt(length / 20)
            along = x * np.cos(angle) + y * np.sin(angle) - speed * number * (16 / rate)
            height += np.sqrt(length) * np.sin(2 * np.pi * along / length + phase)
        shade = height / height.std()
        frame = np.stack([60 + 20 * shade, 110 + 28 * shade, 150 + 30 * shade], axis=-1)
        frames.append(np.clip(frame, 0, 255).round().astype(np.uint8))
    return _clip(frames, rate, seed=seed)


def walk(count: int = 96, seed: int = 6, rate: float = RATE) -> Clip:
    """Somebody walks, step after step, and the camera goes along: the motion is periodic, the background is not."""
    generator = np.random.default_rng(seed)
    picture = texture((count * 2 + 2 * SIZE[0], SIZE[1] + 40), seed)
    pace = np.cumsum(1 + 0.06 * wander(generator, count, 6)[:, 0]) * (16 / rate)
    frames = []
    for number in range(count):
        frame = view(picture, 1.2 * pace[number], 10, 1.0)
        swing = np.sin(2 * np.pi * pace[number] / 17)
        cv2.circle(frame, (80, 24), 8, (220, 180, 150), -1, cv2.LINE_AA)
        cv2.line(frame, (80, 32), (80, 60), (40, 60, 160), 9, cv2.LINE_AA)
        for side in (-1, 1):
            foot, hand = 80 + int(side * 18 * swing), 80 - int(side * 13 * swing)
            cv2.line(frame, (80, 60), (foot, 90 - int(3 * abs(swing))), (30, 30, 40), 6, cv2.LINE_AA)
            cv2.line(frame, (80, 38), (hand, 58), (200, 160, 130), 4, cv2.LINE_AA)
        frames.append(frame)
    return _clip(frames, rate, seed=seed)


def wheel(count: int = 96, seed: int = 7, rate: float = RATE) -> Clip:
    """A big wheel with cabins of several colours turns in front of a still wall, now faster and now slower."""
    generator = np.random.default_rng(seed)
    wall = np.clip(texture(SIZE, seed), 0, 255).round().astype(np.uint8)
    angle = np.cumsum(0.15 + 0.03 * wander(generator, count, 8)[:, 0]) * (16 / rate)
    cabins = [tuple(int(c) for c in generator.integers(20, 240, 3)) for _ in range(6)]
    frames = []
    for turn in angle:
        frame = wall.copy()
        cv2.circle(frame, (80, 48), 34, (50, 50, 50), 2, cv2.LINE_AA)
        for number, colour in enumerate(cabins):
            place = turn + number * 2 * np.pi / len(cabins)
            end = round(80 + 34 * np.cos(place)), round(48 + 34 * np.sin(place))
            cv2.line(frame, (80, 48), end, (60, 60, 60), 2, cv2.LINE_AA)
            cv2.circle(frame, end, 9, colour, -1, cv2.LINE_AA)
        frames.append(frame)
    return _clip(frames, rate, seed=seed)


def static_noise(count: int = 48, seed: int = 8, rate: float = RATE) -> Clip:
    """Pictures of pure noise."""
    frames = np.random.default_rng(seed).integers(0, 256, (count, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return Clip(frames, rate)


def one_colour(count: int = 48, level: int = 0, rate: float = RATE) -> Clip:
    """The same picture of one colour."""
    return Clip(np.full((count, SIZE[1], SIZE[0], 3), level, np.uint8), rate)


def cut(first: Clip, second: Clip) -> Clip:
    """Half of one clip, and then half of another of the same size."""
    return first.with_frames(np.concatenate([first.frames[: len(first) // 2], second.frames[len(second) // 2 :]]))


#: Scenes that look like real videos, by name; ``periodic`` ones repeat their motion, but not their pictures.
REAL: dict[str, Scene] = {
    "pan": pan, "hand-held": hand_held, "animation": animation, "slide": slide, "talking head": talking_head,
    "waves": waves,
}  # fmt: skip
PERIODIC: dict[str, Scene] = {"walk": walk, "wheel": wheel}

"""Edits of a clip whose effect is known."""

from __future__ import annotations

import cv2
import numpy as np

from vqeval.checks.clip import Clip, Frames


def looped(clip: Clip, period: float, *, start: int = 0, fade: int = 0, length: int | None = None) -> Clip:
    """The part of ``period`` frames from ``start`` on, again and again.

    Args:
        period: in frames; with a fraction, frames in between are blended. fade: frames of a cross-fade at each seam.
        length: of the result in frames; default: that of the clip.
    """
    frames = np.arange(length or len(clip))
    phase = frames % period
    found = at(clip, start + phase)
    if fade:
        # Before a seam the picture blends into what leads up to the start of the loop, so that nothing jumps.
        weight = np.clip((phase - (period - fade)) / fade, 0, 1)[:, None, None, None]
        ahead = at(clip, np.clip(start + phase - period, 0, None))
        found = (found * (1 - weight) + ahead * weight).round().astype(np.uint8)
    return clip.with_frames(found)


def at(clip: Clip, places: np.ndarray) -> Frames:
    """Frames at places between frames, blended."""
    last = len(clip) - 1
    low = np.clip(np.floor(places).astype(int), 0, last)
    high = np.clip(low + 1, 0, last)
    weight = (places - low)[:, None, None, None]
    if not (weight > 1e-9).any():
        return clip.frames[low]
    blended: Frames = (clip.frames[low] * (1 - weight) + clip.frames[high] * weight).round().astype(np.uint8)
    return blended


def partly(first: Clip, second: Clip, share: float) -> Clip:
    """The first clip, and in its last ``share`` the second."""
    cut = round(len(first) * (1 - share))
    return first.with_frames(np.concatenate([first.frames[:cut], second.frames[: len(first) - cut]]))


def falling_back(clip: Clip, share: float, period: int) -> Clip:
    """In its last ``share`` it repeats, again and again, the ``period`` frames before: how long videos go wrong."""
    cut = max(period, round(len(clip) * (1 - share)))
    again = cut - period + np.arange(len(clip) - cut) % period
    return clip.with_frames(clip.frames[np.concatenate([np.arange(cut), again])])


def there_and_back(clip: Clip) -> Clip:
    """The first half, and then backwards."""
    half = clip.frames[: (len(clip) + 1) // 2]
    return clip.with_frames(np.concatenate([half, half[-2::-1]]))


def frozen(clip: Clip, share: float = 1.0) -> Clip:
    """Still for its last ``share``."""
    cut = min(len(clip) - 1, round(len(clip) * (1 - share)))
    still = np.repeat(clip.frames[cut : cut + 1], len(clip) - cut, axis=0)
    return clip.with_frames(np.concatenate([clip.frames[:cut], still]))


def frozen_but_a_tenth(clip: Clip) -> Clip:
    """Still, but for the tenth of the picture that changes most."""
    frames = np.repeat(clip.frames[:1], len(clip), axis=0)
    height, width = frames.shape[1:3]
    rows, columns = round(height * 0.32), round(width * 0.32)
    activity = np.abs(np.diff(clip.frames[:: max(1, len(clip) // 16)].astype(np.int16), axis=0)).mean(axis=(0, 3))
    sums = cv2.boxFilter(activity, -1, (columns, rows), normalize=False)[
        rows // 2 : height - rows // 2, columns // 2 : width - columns // 2
    ]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    part = (slice(None), slice(int(top), int(top) + rows), slice(int(left), int(left) + columns))
    frames[part] = clip.frames[part]
    return clip.with_frames(frames)


def slowed(clip: Clip, factor: float = 2.0) -> Clip:
    """All of it, slower by ``factor`` and so longer, with blended frames."""
    return clip.with_frames(at(clip, np.arange(int((len(clip) - 1) * factor) + 1) / factor))


def duplicated(clip: Clip, times: int = 2) -> Clip:
    """Every frame several times, at a rate that is as many times higher, at most 60: a conversion of the rate."""
    return Clip(np.repeat(clip.frames, times, axis=0), clip.rate * times)


def at_rate(clip: Clip, rate: float) -> Clip:
    """The same motion at another number of frames a second."""
    places = np.arange(int(clip.seconds * rate)) * (clip.rate / rate)
    return Clip(at(clip, np.minimum(places, len(clip) - 1)), rate)


def backwards(clip: Clip) -> Clip:
    """Played from the end."""
    return clip.with_frames(clip.frames[::-1])


def flipped(clip: Clip) -> Clip:
    """Left and right exchanged."""
    return clip.with_frames(clip.frames[:, :, ::-1])


def shuffled(clip: Clip, chunks: int = 4) -> Clip:
    """Its parts in another order."""
    parts = np.array_split(clip.frames, chunks)
    return clip.with_frames(np.concatenate([parts[i] for i in (*range(1, chunks, 2), *range(0, chunks, 2))]))


def noisy(clip: Clip, deviation: float = 5.0, seed: int = 0) -> Clip:
    """With noise of this standard deviation in levels, another for each frame."""
    generator = np.random.default_rng(seed)
    found = np.empty_like(clip.frames)
    for number, frame in enumerate(clip.frames):
        grain = generator.normal(0, deviation, frame.shape[:2])[..., None]
        found[number] = np.clip(frame + grain, 0, 255).round()
    return clip.with_frames(found)


def jittered(clip: Clip, pixels: int = 2, seed: int = 0) -> Clip:
    """Each frame moved by up to so many pixels to each side."""
    moves = np.random.default_rng(seed).integers(-pixels, pixels + 1, (len(clip), 2))
    padded = np.pad(clip.frames, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    height, width = clip.frames.shape[1:3]
    found = [frame[y : y + height, x : x + width] for frame, (y, x) in zip(padded, moves + pixels, strict=True)]
    return clip.with_frames(np.stack(found))


def brightness_drift(clip: Clip, first: float = 0.9, last: float = 1.1) -> Clip:
    """Brighter and brighter, by a factor from ``first`` to ``last``."""
    return _scaled(clip, np.linspace(first, last, len(clip)))


def flickering(clip: Clip, share: float = 0.1, seed: int = 0) -> Clip:
    """Each frame brighter or darker than the last by about this share."""
    return _scaled(clip, 1 + share * np.random.default_rng(seed).choice([-1.0, 1.0], len(clip)))


def _scaled(clip: Clip, factors: np.ndarray) -> Clip:
    frames = [np.clip(frame * factor, 0, 255).round() for frame, factor in zip(clip.frames, factors, strict=True)]
    return clip.with_frames(np.stack(frames).astype(np.uint8))


def gamma(clip: Clip, exponent: float = 1.3) -> Clip:
    """Darker middle tones."""
    table = (255 * (np.arange(256) / 255) ** exponent).round().astype(np.uint8)
    return clip.with_frames(table[clip.frames])


def fading(clip: Clip, last: float = 0.15) -> Clip:
    """Its colours and contrasts fade to a share of ``last``."""
    grey = clip.frames.mean(axis=(1, 2, 3), keepdims=True)
    weight = np.linspace(1, last, len(clip))[:, None, None, None]
    return clip.with_frames((grey + (clip.frames - grey) * weight).round().astype(np.uint8))


def blurred(clip: Clip, radius: float = 0.016) -> Clip:
    """Blurred by a Gaussian whose deviation is this share of the longer side."""
    sigma = radius * max(clip.frames.shape[1:3])
    return clip.with_frames(np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip.frames]))


def cropped(clip: Clip, share: float = 0.9) -> Clip:
    """Its middle."""
    height, width = (round(side * share / 2) * 2 for side in clip.frames.shape[1:3])
    top, left = (clip.frames.shape[1] - height) // 2, (clip.frames.shape[2] - width) // 2
    return clip.with_frames(clip.frames[:, top : top + height, left : left + width])


def halved(clip: Clip) -> Clip:
    """Half as wide and half as high."""
    height, width = (side // 4 * 2 for side in clip.frames.shape[1:3])
    small = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in clip.frames]
    return clip.with_frames(np.stack(small))

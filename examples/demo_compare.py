"""Videos of the same prompt and seed beside each other: as one mp4, and as one picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from lvsa_vllm_omni.offline import write_mp4

#: Small videos are enlarged by a whole number, without blur, to about this height.
HEIGHT = 320
#: Height of a caption in pixels; stills of a film strip.
CAPTION, STILLS = 32, 12


def frames(path: Path) -> Iterator[Any]:
    """The pictures of a video, uint8 [height, width, 3]."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def side_by_side(sides: dict[str, Path], target: Path, fps: float) -> None:
    """Write the videos of the captions beside each other, until the shorter one ends."""
    captions: list[Any] = []

    def pictures() -> Iterator[Any]:
        for together in zip(*(frames(path) for path in sides.values()), strict=False):
            times = max(1, round(HEIGHT / together[0].shape[0]))
            large = [one.repeat(times, axis=0).repeat(times, axis=1) for one in together]
            if not captions:
                captions.extend(_caption(text, large[0].shape[1]) for text in sides)
            both = [np.concatenate(pair) for pair in zip(captions, large, strict=True)]
            gap = np.full((len(both[0]), 8, 3), 255, dtype=np.uint8)
            yield np.concatenate([x for one in both for x in (one, gap)][:-1], axis=1)

    write_mp4(target, pictures(), fps)


def _caption(text: str, width: int) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width, CAPTION), "white")
    ImageDraw.Draw(picture).text((6, 5), text, fill="black", font=ImageFont.load_default(size=18))
    return np.asarray(picture)


def picture(sides: dict[str, Path], target: Path, fps: float, title: str) -> None:
    """Draw for every video its film strip, and below it the middle column of all its frames beside each other.

    In the second what stands still is a straight line, what moves a wave, and a loop repeats.
    """
    from matplotlib.figure import Figure

    videos = {name: list(frames(path)) for name, path in sides.items()}
    figure = Figure(figsize=(10, 2.35 * len(sides) + 0.6), layout="constrained")
    axes = figure.subplots(2 * len(sides), 1, gridspec_kw={"height_ratios": [1, 1.35] * len(sides)})
    figure.suptitle(title, fontsize=10)
    for (name, shown), strip, slices in zip(videos.items(), axes[::2], axes[1::2], strict=True):
        seconds = len(shown) / fps
        chosen = np.linspace(0, len(shown) - 1, STILLS).round().astype(int)
        white = np.full((len(shown[0]), max(1, shown[0].shape[1] // 32), 3), 255, dtype=np.uint8)
        strip.imshow(np.concatenate([x for i in chosen for x in (shown[i], white)][:-1], axis=1))
        strip.set_title(name, loc="left", fontsize=10)
        strip.axis("off")
        through = np.stack([frame[:, frame.shape[1] // 2] for frame in shown], axis=1)
        slices.imshow(through, aspect="auto", extent=(0, seconds, 0, 1), interpolation="nearest")
        slices.set(yticks=[], ylabel="middle\ncolumn")
        slices.tick_params(labelsize=8)
    axes[-1].set_xlabel("seconds", fontsize=9)
    figure.savefig(target, dpi=100)

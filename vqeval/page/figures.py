"""The pictures of the pages; each is (kind, bytes of a file)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.figure import Figure

from vqeval import scores
from vqeval.analysis import Analysis
from vqeval.traits import Picture
from vqeval.video import Video

if TYPE_CHECKING:
    from vqeval.comparison import Comparison

Image = tuple[str, bytes]

_STRIP = 10
_BLUE, _ORANGE, _GREY = "#1f6fb2", "#d9541e", "#9aa3ab"


def film_strip(video: Video) -> list[tuple[float, Image]]:
    """Pictures from beginning to end, with their times in seconds."""
    chosen = np.unique(np.linspace(0, len(video.stills) - 1, _STRIP).round().astype(int))
    return [(video.stills[i][0], _jpeg(video.stills[i][1])) for i in chosen]


def _jpeg(picture: Picture) -> Image:
    return "jpeg", cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def _svg(figure: Figure) -> Image:
    # Without a date and with a fixed salt the same video gives the same page.
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "vqeval", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight", transparent=True)
    return "svg+xml", buffer.getvalue()


def slice_through_time(analysis: Analysis) -> Image:
    """The middle row of every picture, one beside the other: still parts are straight lines, a loop repeats."""
    video = analysis.video
    row = np.clip(video.luma[:, video.luma.shape[1] // 2, :].T, 0, 255)
    figure = Figure(figsize=(9, 2.2))
    axes = figure.add_subplot()
    axes.imshow(
        row, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=(0, video.seconds, 0, 1), interpolation="none"
    )
    axes.set(xlabel="seconds", yticks=[], ylabel="middle row")
    return _svg(figure)


def similarity_matrix(analysis: Analysis) -> Image:
    """How far each picture is from each, with the repeated frames and their lag marked."""
    video, distance = analysis.video, analysis.similarity.distance
    seconds = len(video) / video.rate
    step = max(1, len(distance) // 400)
    figure = Figure(figsize=(5.2, 4.4))
    axes = figure.add_subplot()
    shown = axes.imshow(
        distance[::step, ::step], cmap="gray", origin="lower", extent=(0, seconds, 0, seconds), vmin=0,
        vmax=max(0.3, float(np.quantile(distance, 0.95))),
    )  # fmt: skip
    loop, mirror = analysis.loop, analysis.mirror
    if loop is not None and loop.lag is not None:
        lag = loop.lag / video.rate
        for times in range(1, int(seconds / lag) + 1):
            axes.plot([times * lag, seconds], [0, seconds - times * lag], color=_ORANGE, lw=1, label="_")
        axes.plot([], [], color=_ORANGE, lw=1.5, label=f"loop, lag {lag:.2f} s")
    if mirror is not None and mirror.turns and mirror.share > scores.ALARM["mirror"]:
        turn = mirror.turns[0] / video.rate
        reach = min(turn, seconds - turn)
        axes.plot([turn, turn + reach], [turn, turn - reach], color=_BLUE, lw=1.5, label=f"turn at {turn:.2f} s")
    axes.set(xlabel="seconds", ylabel="seconds", xlim=(0, seconds), ylim=(0, seconds))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", fontsize=8)
    figure.colorbar(shown, ax=axes, label="distance (0: the same picture)")
    return _svg(figure)


def motion(analysis: Analysis) -> Image:
    """Motion over time, with the parts that stand still."""
    video, found = analysis.video, analysis.motion
    figure = Figure(figsize=(9, 2.2))
    axes = figure.add_subplot()
    axes.plot(found.seconds, found.speed, color=_BLUE, lw=1)
    still = np.flatnonzero(np.diff(np.concatenate([[False], ~analysis.moving, [False]]).astype(int)))
    for number, (first, last) in enumerate(still.reshape(-1, 2)):
        label = "stands still" if number == 0 else None
        axes.axvspan(first / video.rate, last / video.rate, color=_ORANGE, alpha=0.25, lw=0, label=label)
    axes.set(xlabel="seconds", ylabel="% of diagonal / s", xlim=(0, video.seconds), ylim=(0, None))
    if len(still):
        axes.legend(loc="upper right", fontsize=8)
    return _svg(figure)


def differences(comparison: Comparison) -> Image:
    """The difference of each quantity that has a score, with its interval, and the single pairs as dots."""
    from vqeval.comparison import quantities

    rows = [row for row in comparison.rows if row.quantity == "score"][::-1]
    figure = Figure(figsize=(8, 0.5 + 0.42 * len(rows)))
    axes = figure.add_subplot()
    axes.axvline(0, color=_GREY, lw=1)
    for place, row in enumerate(rows):
        dots = []
        for pair in comparison.pairs:
            a, b = quantities(pair.a).get(row.name), quantities(pair.b).get(row.name)
            if a and b and a[0] == b[0] == "score":
                dots.append(b[1] - a[1])
        axes.plot(dots, [place] * len(dots), "o", color=_GREY, ms=4, alpha=0.5, mew=0)
        if row.low is not None and row.high is not None:
            sure = not row.low <= 0 <= row.high
            axes.plot(
                [row.low, row.high], [place, place], color=_ORANGE if sure else _BLUE, lw=3, solid_capstyle="butt"
            )
        axes.plot([row.difference], [place], "D", color="black", ms=5)
    axes.set_yticks(range(len(rows)), [row.name.replace("_", " ") for row in rows])
    axes.set(xlabel="score of B minus score of A", ylim=(-0.6, len(rows) - 0.4))
    return _svg(figure)

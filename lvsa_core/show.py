"""Shows a pattern to people: as text and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lvsa_core.pattern import Pattern

#: The letter for (is an anchor, is in the window).
LETTERS = {(True, False): "G", (False, True): "W", (True, True): "X", (False, False): "."}

#: Colour of what is not attended to.
_NOT = "#f4f4f2"


def rows(pattern: Pattern) -> list[str]:
    """One string for each query frame, one letter for each key frame: G anchor, W window, X both, . not attended."""
    anchors = set(pattern.anchors)
    return [
        "".join(LETTERS[key in anchors, low <= key <= high] for key in range(pattern.frames))
        for low, high in pattern.windows
    ]


def summary(pattern: Pattern, rotate_after: float = 0.0) -> str:
    """The pattern in one line, as the plugin logs it."""
    special = anchors(pattern, rotate_after)
    return (
        f"total_lat_frames={pattern.frames} window={pattern.window} n_first={pattern.n_first} "
        f"kfi={pattern.keyframe_interval} global_count={len(pattern.anchors)} "
        f"attended_per_frame={pattern.attended_per_frame}/{pattern.frames} density={pattern.density:.1%}"
        f"{' ' if special else ''}{special}"
    )


def anchors(pattern: Pattern, rotate_after: float = 0.0) -> str:
    """How anchors are seen, if not where they are, with their own weight, and rotating from the first step on."""
    group, shift = pattern.grouping or (0, 0)
    told = {
        f"anchor_positions=remap group={group} shift={shift}": group,
        f"anchor_boost={pattern.bias:g}": pattern.bias,
        f"rotate_after={rotate_after:g}": rotate_after and not pattern.is_dense,
    }
    return " ".join(text for text, special in told.items() if special)


def distances(pattern: Pattern, frame: int) -> list[tuple[int, int]]:
    """The anchors outside of a frame's window, each with the distance at which the frame sees it."""
    low, high = pattern.window_bounds(frame)
    return [(anchor, pattern.distance(frame, anchor)) for anchor in pattern.anchors if not low <= anchor <= high]


def text(pattern: Pattern) -> str:
    """The summary, then the rows below it."""
    return "\n".join([f"{summary(pattern)} offset={pattern.offset}", *rows(pattern)])


def figure(patterns: Pattern | list[Pattern], path: str | Path | None = None, trained: int | None = None) -> Any:
    """Draw one pattern, or several side by side (such as successive steps), with matplotlib.

    Args:
        patterns: what to draw.
        path: the file to write, whose suffix gives the format; None: no file.
        trained: latent frames that the model was trained on: the colours tell at which distance in time a frame is
            seen, and whether it is farther than any in the training. None: they tell anchors from windows.

    Returns:
        The matplotlib figure.

    Raises:
        ModuleNotFoundError: if matplotlib is missing, with the way to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a figure needs matplotlib: pip install matplotlib") from None

    patterns = [patterns] if isinstance(patterns, Pattern) else patterns
    height = 5.8 if trained is None else 6.4
    drawn = Figure(figsize=(4.6 * len(patterns) + 0.4, height), layout="constrained")
    axes = drawn.subplots(1, len(patterns), squeeze=False)[0]
    for axis, pattern in zip(axes, patterns, strict=True):
        special = {"at trained distances": pattern.grouping, f"boosted by {pattern.bias:g}": pattern.bias}
        how = ", ".join(text for text, is_so in special.items() if is_so)
        axis.set_title(
            f"{pattern.frames} frames, anchors every {pattern.keyframe_interval}, offset {pattern.offset}\n"
            f"density {pattern.density:.1%}{', anchors ' if how else ''}{how}",
            fontsize=11,
        )
        axis.set_xlabel("key frame (latent)")
    axes[0].set_ylabel("query frame (latent)")
    if trained is None:
        _kinds(drawn, axes, patterns)
    else:
        _distances(drawn, axes, patterns, trained)
    if path is not None:
        drawn.savefig(path, dpi=120)
    return drawn


def _kinds(drawn: Any, axes: Any, patterns: list[Pattern]) -> None:
    """Colour anchors and windows."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    kinds = {".": ("not attended", _NOT), "G": ("anchor", "#3b6fb6"), "W": ("window", "#e8a33d")}
    kinds["X"] = ("anchor in the window", "#7a5195")
    order, colors = list(kinds), ListedColormap([color for _, color in kinds.values()])
    for axis, pattern in zip(axes, patterns, strict=True):
        letters = [[order.index(letter) for letter in row] for row in rows(pattern)]
        axis.imshow(letters, cmap=colors, vmin=0, vmax=len(kinds) - 1, interpolation="nearest")
    drawn.legend(
        handles=[Patch(facecolor=color, edgecolor="#999999", label=label) for label, color in kinds.values()],
        loc="outside lower center",
        ncols=2 if len(patterns) == 1 else len(kinds),  # in one row they would be wider than one pattern
        frameon=False,
    )


def _distances(drawn: Any, axes: Any, patterns: list[Pattern], trained: int) -> None:
    """Colour at which distance a frame is seen; those that no training has had stand out."""
    from matplotlib import colormaps

    colors = colormaps["viridis"].with_extremes(bad=_NOT, over="#d62728")
    for axis, pattern in zip(axes, patterns, strict=True):
        frames = range(pattern.frames)
        seen = [[abs(pattern.distance(q, k)) if pattern.allows(q, k) else float("nan") for k in frames] for q in frames]
        image = axis.imshow(seen, cmap=colors, vmin=0, vmax=max(1, trained - 1), interpolation="nearest")
    bar = drawn.colorbar(image, ax=axes, location="bottom", extend="max", fraction=0.04, aspect=50)
    between = "\n" if len(patterns) == 1 else "; "
    bar.set_label(f"distance at which a frame is seen, latent frames{between}red: beyond the {trained} of the training")

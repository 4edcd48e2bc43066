"""The writer of all benchmarks: options for the output, facts, JSON, tables and figures."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.cli.tables import markdown_table

#: Facts of the machine without which results do not belong together.
SAME = ("device", "versions", "commit", "command")
#: Of the bootstrap.
DRAWS = 10_000


def parser_of(documentation: str | None, figure: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has, or every one that draws."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, as soon as they are known")
    if figure:
        parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the results there (needs matplotlib)")
    parser.add_argument("--commit", help="of this repository, where git cannot tell it")
    return parser


def numbers(kind: Callable[[str], Any] = int) -> Callable[[str], list[Any]]:
    """The type of an option that takes numbers separated by commas."""

    def parse(text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes numbers separated by commas, got {text}") from None

    return parse


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes names separated by commas."""

    def parse(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not known; choose of {', '.join(known)}")
        return text.split(",")

    return parse


class Results:
    """What a benchmark found: facts of the machine, and a list of rows; printed and written as it grows.

    Args:
        file: where it is written; None: nowhere.
        machine: the facts, and all else that the numbers depend on.
        resume: go on with what the file holds.

    Raises:
        ValueError: if that was measured elsewhere, or by another command.
    """

    def __init__(self, file: Path | None, machine: dict[str, Any], resume: bool = False) -> None:
        self.start, self.file = time.monotonic(), file
        self.data: dict[str, Any] = {"machine": machine, "rows": []}
        if resume and file and file.exists():
            self.data = json.loads(file.read_text())
            for name in SAME:
                if (found := self.data["machine"].get(name)) != machine.get(name):
                    raise ValueError(
                        f"{file} holds results of another {name}, {found}, not {machine.get(name)}: move the file, or "
                        "name another one with --json"
                    )
        print(*(f"{name}: {value}" for name, value in machine.items() if value is not None), sep="\n", flush=True)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.data["rows"]

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    def save(self, **more: Any) -> None:
        """Write everything so far, if a file is wanted; the file is whole at any time."""
        self.data |= {**more, "seconds": self.seconds}
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            written = self.file.with_suffix(".part")
            written.write_text(json.dumps(self.data, indent=1) + "\n")
            os.replace(written, self.file)


def say(*lines: str) -> None:
    """Print lines at once, after an empty one."""
    print("", *lines, sep="\n", flush=True)


def table(header: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown; the header's columns are separated by ``|``."""
    return [*markdown_table([[title.strip() for title in header.split("|")], *rows])]


def interval(values: Any, of: str = "mean") -> tuple[float, float]:
    """Bounds of the mean, or of numpy's function of another name, that 95 % of the bootstrap's draws keep."""
    import numpy as np  # which not every benchmark needs

    drawn = getattr(np, of)(np.random.default_rng(0).choice(np.array(values), (DRAWS, len(values))), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def milliseconds(value: float) -> str:
    """Three digits or more."""
    return f"{value * 1e3:.{2 if value < 0.01 else 1}f} ms"


def gigabytes(value: float) -> str:
    """A number of bytes as gigabytes, of 10**9 each."""
    return f"{value / 1e9:.2f}"


@dataclass
class Panel:
    """One diagram of a figure.

    Args:
        lines: points by name. notes: text at points. options: of matplotlib's ``Axes.set``.
        levels: horizontal lines. bars: draw bars beside each other instead of lines.
        errors: by name, half of the bar at each point of a line.
    """

    lines: dict[str, list[tuple[float, float]]]
    options: dict[str, Any]
    notes: list[tuple[float, float, str]] = field(default_factory=list)
    levels: Sequence[float] = ()
    bars: bool = False
    errors: dict[str, list[float]] = field(default_factory=dict)


def draw(file: Path | None, panels: Sequence[Panel], columns: int | None = None) -> None:
    """A figure of panels, if a file is wanted and matplotlib is there; ``columns``: of them, else all are in a line."""
    if file is None:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No figure: matplotlib is not installed.", file=sys.stderr)
        return
    across = columns or len(panels)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.2 * across, 3.8 * down), layout="constrained")
    for axes, panel in zip(figure.subplots(down, across, squeeze=False).flat, panels, strict=True):
        ticks = sorted({x for points in panel.lines.values() for x, _ in points})
        for place, (name, points) in enumerate(panel.lines.items()):
            if panel.bars:
                width = 0.8 / len(panel.lines)
                shift = (place - (len(panel.lines) - 1) / 2) * width
                axes.bar([ticks.index(x) + shift for x, _ in points], [y for _, y in points], width, label=name)
            else:
                axes.errorbar(
                    *zip(*points, strict=True), yerr=panel.errors.get(name), marker="o", capsize=3, label=name
                )
        for level in panel.levels:
            axes.axhline(level, color="grey", linewidth=0.8, linestyle="--")
        for x, y, text in panel.notes:
            axes.annotate(text, (x, y), xytext=(0, 6), textcoords="offset points", ha="center")
        axes.set(**panel.options)
        axes.set_xticks(range(len(ticks)) if panel.bars else ticks, [f"{x:.3g}" for x in ticks])
        axes.minorticks_off()
        if panel.lines:
            axes.legend(fontsize="x-small")
    figure.savefig(file, dpi=100)

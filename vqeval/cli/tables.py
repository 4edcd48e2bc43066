"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from vqeval.batch import Outcome
from vqeval.calibration import Level
from vqeval.comparison import Comparison
from vqeval.result import Dimension, Result
from vqeval.words import TITLES, value_text


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Columns beside each other; ``right``: numbers of those that end flush."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def result_lines(result: Result) -> list[str]:
    """One video: its facts, each dimension, the composite, and what one has to know."""
    video = result.video
    rate = f"{video.rate:.4g} frames a second" + (", uneven in the file" if video.variable_rate else "")
    rows = [("dimension", "value", "score", "")]
    for name, found in result.dimensions.items():
        score = "" if found.score is None else f"{found.score:.0f}"
        rows.append((TITLES[name][0], value_text(found, name), score, _note(found)))
    lines = [
        f"{video.path}: {video.frames} frames of {video.width} x {video.height}, {video.seconds:.2f} s, {rate}",
        *(f"  {line}" for line in table(rows, right=(1, 2))),
    ]
    if result.composite is None:
        lines.append(f"  no composite: {result.composite_reason}")
    else:
        names = ", ".join(TITLES[name][0] for name in result.composite_of)
        lines.append(f"  composite {result.composite:.1f} of 100, from {names}")
    return lines + [f"  warning: the video {alarm}" for alarm in result.alarms]


def _note(found: Dimension) -> str:
    notes = [found.reason] if found.reason else [] if found.counted else ["stands beside the composite"]
    return "; ".join([*notes, *([f"weights: {found.weights}"] if found.weights else [])])


def outcome_line(outcome: Outcome) -> str:
    """One video of a batch in a line."""
    name = outcome.entry.path.name
    if outcome.result is None:
        return f"failed: {outcome.error}"
    if outcome.result.composite is None:
        return f"{name}: no composite: {outcome.result.composite_reason}"
    alarms = "; ".join(outcome.result.alarms)
    return f"{name}: {outcome.result.composite:.1f} of 100" + (f"; it {alarms}" if alarms else "")


def comparison_lines(comparison: Comparison) -> list[str]:
    """A comparison: a line for each quantity."""
    rows = [("", "A", "B", "B - A", "95 % interval", "pairs", "needed", "")]
    for row in comparison.rows:
        between = "" if row.low is None or row.high is None else f"{row.low:+.2f} to {row.high:+.2f}"
        title = TITLES[row.name][0] + (" (value)" if row.quantity == "value" else "")
        needed = "" if row.needed is None else str(row.needed)
        numbers = (f"{row.a:.2f}", f"{row.b:.2f}", f"{row.difference:+.2f}", between, str(row.pairs), needed)
        rows.append((title, *numbers, row.verdict))
    lines = [f"A: {comparison.a}", f"B: {comparison.b}", *table(rows, right=range(1, 7))]
    reasons = dict.fromkeys(row.reason for row in comparison.rows if row.reason)
    left_out = [f"left out: {path}: {reason}" for path, reason in comparison.left_out.items()]
    return [*lines, *(f"note: {reason}" for reason in reasons), *left_out]


def level_lines(levels: Sequence[Level]) -> list[str]:
    """What good clips have."""
    rows = [
        ("", "clips", "usual", "1 in 20 above", "highest", "alarm above", "false alarms", "points lost", "highest in")
    ]
    for level in levels:
        alarm = "" if level.alarm is None else f"{level.alarm:.3g}"
        false = "" if level.alarm is None else str(level.false_alarms)
        numbers = (str(level.clips), f"{level.usual:.3g}", f"{level.high:.3g}", f"{level.highest:.3g}", alarm, false)
        rows.append((TITLES[level.name][0], *numbers, f"{level.lost:.1f}", level.highest_in))
    return table(rows, right=range(1, 8))

"""Tables, CSV and the figure of ``reproduce.py``, beside what has been published of the method."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from report import Panel, Results, draw, interval, table

#: Seconds of a video on one A100 of 80 GB with 50 steps: (model, horizon) -> dense, with FlashInfer's kernel.
PUBLISHED = {
    ("Wan2.1-T2V-1.3B-Diffusers", 2): (566, 395),
    ("Wan2.1-T2V-1.3B-Diffusers", 3): (1145, 621),
    ("Wan2.1-T2V-1.3B-Diffusers", 4): (1930, 802),
}
#: What the table of quality shows, with the sign of better; of the first two VQeval's share of frames.
QUALITY = ("loop", "freeze", "mirror", "motion", "drift", "composite")
TIMES = ("seconds", "denoising_seconds")
#: What the figure shows of a model.
TITLES, X = ("seconds of a request", "times as fast as dense", "density", "composite, 95 %"), "length / training length"


def write_report(results: Results, folder: Path) -> None:
    """Write the results, results.csv, tables.md and figure.png into the folder, and print the tables."""
    results.save()
    rows = results.rows
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    lines = [*speed(rows), "", *quality(rows)]
    (folder / "tables.md").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n")
    draw(folder / "figure.png", panels(rows), columns=len(TITLES))


def groups(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, float, dict[str, list[dict[str, Any]]]]]:
    """Model, horizon, and the rows of each method, in the order of the rows."""
    for model, horizon in dict.fromkeys((row["model"], row["horizon"]) for row in rows):
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if (row["model"], row["horizon"]) == (model, horizon):
                found.setdefault(row["method"], []).append(row)
        yield model, horizon, found


def speed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Times and memory: medians over the videos of a row, the first of each left out where there are others."""
    cells = []
    for model, horizon, methods in groups(rows):
        dense = {name: median(methods.get("dense", []), name) for name in TIMES}
        for method, of_it in methods.items():
            times = {name: median(of_it, name) for name in TIMES}
            published = PUBLISHED.get((model, int(horizon)))
            said = published and {"dense": published[0], "lvsa": published[1]}.get(method)
            cells.append([
                model, f"{horizon:g}x", method, str(len(of_it)), state(of_it) or number(times["seconds"], 1),
                number(times["denoising_seconds"], 1), *(over(dense[name], times[name]) for name in TIMES),
                number(median(of_it, "density"), 3), number(median(of_it, "peak_memory_gb"), 1),
                f"{said} s" if said else "",
            ])  # fmt: skip
    header = "model | length | method | videos | seconds | of them denoising | times as fast as dense | denoising alone"
    return table(f"{header} | density | peak GB | published, A100", cells)


def quality(rows: Sequence[dict[str, Any]]) -> list[str]:
    """VQeval's means, and the paired difference of the composite from dense."""
    cells = []
    for model, horizon, methods in groups(rows):
        base = {key(row): row for row in methods.get("dense", [])}
        for method, of_it in methods.items():
            made = [row for row in of_it if row["result"] == "made"]
            pairs = [
                row["composite"] - base[key(row)]["composite"]
                for row in made
                if key(row) in base and row["composite"] is not None and base[key(row)].get("composite") is not None
            ]
            means = [[row[name] for row in made if row.get(name) is not None] for name in QUALITY]
            shown = [number(statistics.mean(values), 2) if values else "" for values in means]
            cells.append([model, f"{horizon:g}x", method, *shown, "" if method == "dense" else difference(pairs)])
    return table(f"model | length | method | {' | '.join(QUALITY)} | composite minus dense, 95 %", cells)


def key(row: dict[str, Any]) -> tuple[str, int]:
    """What makes two videos a pair."""
    return row["prompt"], row["seed"]


def difference(pairs: Sequence[float]) -> str:
    """The mean with the bounds that 95 % of the bootstrap's draws keep; from five pairs on."""
    if not pairs:
        return ""
    if len(pairs) < 5:
        return f"{statistics.mean(pairs):+.1f} ({len(pairs)} pairs)"
    low, high = interval(pairs)
    return f"{statistics.mean(pairs):+.1f} [{low:+.1f}, {high:+.1f}]"


def median(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """The median of a row's videos; an engine's first one also compiles, so it only counts where it is the only one."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return statistics.median(values[1:] or values) if values else None


def over(dense: float | None, seconds: float | None) -> str:
    """How many times as fast as dense, where both are known."""
    return f"{dense / seconds:.2f}" if dense and seconds else ""


def state(rows: Sequence[dict[str, Any]]) -> str:
    """Why a row has no time; nothing if it has one."""
    if any(row.get("seconds") is not None for row in rows):
        return ""
    return next((row["result"].partition(",")[0] for row in rows if row["result"] != "made"), "")


def number(value: float | None, digits: int) -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def panels(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """Latency, speed-up, density and the composite with its spread, over the length; a line of panels a model."""
    drawn: dict[str, list[Panel]] = {}
    for model, horizon, methods in groups(rows):
        four = drawn.setdefault(model, [Panel({}, {"title": f"{model}, {title}", "xlabel": X}) for title in TITLES])
        dense = median(methods.get("dense", []), "seconds")
        for method, of_it in methods.items():
            seconds = median(of_it, "seconds")
            values = [row["composite"] for row in of_it if row.get("composite") is not None]
            ratio = dense / seconds if dense and seconds else None
            mean = statistics.mean(values) if values else None
            shown = (seconds, ratio, median(of_it, "density"), mean)
            for panel, value in zip(four, shown, strict=True):
                if value is not None:
                    panel.lines.setdefault(method, []).append((horizon, value))
            if values:
                error = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
                four[-1].errors.setdefault(method, []).append(error)
    return [panel for four in drawn.values() for panel in four]

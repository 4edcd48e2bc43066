#!/usr/bin/env python
"""VBench beside ``reproduce.py``: the folder that it reads, and its results as a table.

    python benchmarks/reproduce.py --report --vbench outputs/vbench
    vbench evaluate --videos_path outputs/vbench/lvsa-4x --dimension subject_consistency --mode custom_input
    python benchmarks/vbench.py outputs/vbench/*/evaluation_results

VBench is not installed by this project; its custom mode takes any folder of videos whose names are their prompts.
Its marks reward loops and stills, see docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import root  # noqa: F401
from report import table

#: File systems take names of 255 bytes; VBench reads the prompt from the name.
LONGEST = 180


def write_folder(rows: Sequence[dict[str, Any]], source: Path, target: Path) -> list[str]:
    """Link every video under the name of its prompt and seed, a folder for each method and length; returns a line each.

    Args:
        rows: of ``reproduce.py``. source: its --output, in which their files lie.
    """
    counts: dict[str, int] = {}
    for row in rows:
        if row["result"] != "made":
            continue
        group = f"{re.sub('[^a-z0-9.+-]', '-', row['method'])}-{row['horizon']:g}x"
        name = re.sub(r"[/\0]", " ", row["prompt"])[:LONGEST].strip()
        link = target / group / f"{name}-{row['seed']}.mp4"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        os.symlink((source / row["file"]).resolve(), link)
        counts[group] = counts.get(group, 0) + 1
    return [f"{target / group}: {count} videos" for group, count in counts.items()]


def read_results(folder: Path) -> dict[str, float]:
    """VBench's marks of a folder, from its newest ``*_eval_results.json``: the mean of each dimension.

    Raises:
        ValueError: if there is none, or it is not VBench's.
    """
    files = sorted(folder.glob("*_eval_results.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError(f"{folder} has no *_eval_results.json: run vbench evaluate with --output_path {folder}")
    try:
        found = json.loads(files[-1].read_text())
        return {name: float(value[0]) for name, value in found.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise ValueError(f"{files[-1]} is not a result of VBench: a mark for each dimension is expected") from None


def main() -> int:
    """Print the marks of several folders as one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="DIR", help="where vbench wrote its results")
    try:
        found = {folder: read_results(folder) for folder in parser.parse_args().results}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = list(dict.fromkeys(name for marks in found.values() for name in marks))
    cells = [[str(x), *(f"{m[n]:.3f}" if n in m else "" for n in names)] for x, m in found.items()]
    print(*table(" | ".join(["videos", *names]), cells), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

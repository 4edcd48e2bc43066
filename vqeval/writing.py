"""The results of a batch as files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqeval.batch import Outcome
from vqeval.errors import InputError
from vqeval.page import video_page


def made_folder(path: Path) -> Path:
    """The folder of ``--output``, made where it is missing.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {path} cannot be made: {error.strerror}; name another folder") from None
    return path


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV table whose columns are those of all rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


class Writer:
    """Writes the results of a batch to a folder.

    For each video ``<name>.vqeval.json`` and ``<name>.vqeval.html`` (the JSON of that name without ``vqeval`` may stand
    there already: it is the generator's), and ``summary.csv`` for all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = made_folder(folder)
        self._names: set[str] = set()
        self._rows: list[dict[str, Any]] = []

    def add(self, outcome: Outcome) -> None:
        """Write one outcome; an error has a line in the table alone."""
        self._rows.append(row_of(outcome))
        if outcome.result is not None and outcome.analysis is not None:
            name = self._name(outcome.entry.path)
            text = outcome.result.model_dump_json(indent=2) + "\n"
            (self.folder / f"{name}.vqeval.json").write_text(text, encoding="utf-8")
            page = video_page(outcome.result, outcome.analysis)
            (self.folder / f"{name}.vqeval.html").write_text(page, encoding="utf-8")
        write_rows(self.folder / "summary.csv", self._rows)

    def _name(self, path: Path) -> str:
        """The video's own name, with a number where two have the same."""
        name, number = path.stem, 2
        while name in self._names:
            name, number = f"{path.stem}-{number}", number + 1
        self._names.add(name)
        return name


def row_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a line of a table."""
    row: dict[str, Any] = {"video": str(outcome.entry.path), "error": outcome.error or ""}
    if outcome.result is None:
        return row
    row["composite"] = outcome.result.composite
    for name, found in outcome.result.dimensions.items():
        row[name] = found.value
        row[f"{name}_score"] = found.score
        if name == "loop":
            row["loop_lag_seconds"] = found.lag_seconds
    row["alarms"] = "; ".join(outcome.result.alarms)
    return row

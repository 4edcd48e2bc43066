"""Many videos: where they come from, evaluated one after the other, and written as JSON, CSV and HTML."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqeval.analysis import Analysis
from vqeval.errors import InputError, VideoError
from vqeval.evaluation import Settings, evaluate_with
from vqeval.result import Result
from vqeval.video import Progress, read

#: Endings of the files of a folder that are taken for videos.
VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".gif")
#: Columns of a table of videos: the first is needed.
COLUMNS = ("video", "prompt", "reference")


@dataclass(frozen=True)
class Entry:
    """A video to evaluate, with its prompt and its reference where it has them."""

    path: Path
    prompt: str | None = None
    reference: Path | None = None


def entries_of(source: Path) -> list[Entry]:
    """The videos of a folder in order of their names, or those that a CSV table lists, relative to its folder.

    Raises:
        InputError: there is no such folder or table, it lists no video, or it lacks the column "video".
    """
    if source.is_dir():
        found = [Entry(path, _prompt_beside(path)) for path in videos_in(source)]
        if not found:
            raise InputError(f"{source}: holds no video ({', '.join(VIDEO_ENDINGS)})")
        return found
    if source.suffix.lower() != ".csv":
        raise InputError(f"{source}: neither a folder nor a .csv table")
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{source}: cannot be read as a table: {error}") from None
    if not rows or "video" not in rows[0]:
        raise InputError(f"{source}: a table needs a line of names with the column 'video'; known are {COLUMNS}")
    found = []
    for number, row in enumerate(rows, start=2):
        if not (row["video"] or "").strip():
            raise InputError(f"{source}, line {number}: the column 'video' is empty")
        reference = (row.get("reference") or "").strip()
        found.append(
            Entry(
                source.parent / row["video"].strip(),
                (row.get("prompt") or "").strip() or None,
                source.parent / reference if reference else None,
            )
        )
    return found


def videos_in(folder: Path) -> list[Path]:
    """Files of a folder that are videos by their name, in order."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in VIDEO_ENDINGS and not path.name.startswith(".")
    )


@dataclass(frozen=True)
class Outcome:
    """What came of an entry: a result, or the sentence that says why there is none."""

    entry: Entry
    result: Result | None = None
    analysis: Analysis | None = None
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no result, or a dimension that was asked for is missing in it."""
        return self.result is None or any(found.failed for found in self.result.dimensions.values())


def evaluate_all(
    entries: Sequence[Entry], settings: Settings, progress: Callable[[Entry], Progress | None] = lambda entry: None
) -> Iterator[Outcome]:
    """Evaluate one after the other; a video that cannot be judged does not keep the others from it."""
    references: dict[Path, Analysis] = {}
    for entry in entries:
        own = settings
        if entry.prompt is not None and settings.learned.clip:
            own = replace(settings, learned=replace(settings.learned, prompt=entry.prompt))
        try:
            reference = None
            if entry.reference is not None:
                if entry.reference not in references:
                    references = {entry.reference: Analysis.of(read(entry.reference))}  # the last one is kept
                reference = references[entry.reference]
            result, analysis = evaluate_with(entry.path, own, reference, progress(entry))
        except VideoError as error:
            yield Outcome(entry, error=str(error))
        else:
            yield Outcome(entry, result, analysis)


def _prompt_beside(path: Path) -> str | None:
    settings = (record_beside(path) or {}).get("settings")
    prompt = settings.get("prompt") if isinstance(settings, dict) else None
    return prompt if isinstance(prompt, str) else None


def record_beside(path: Path) -> dict[str, Any] | None:
    """The JSON object beside a video, which the examples write; None if there is none."""
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None

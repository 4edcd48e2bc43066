"""Run the command `vqeval`: 0, or 1 if some videos failed, or 2 with one sentence if nothing could be done."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vqeval.batch import Entry, Outcome, entries_of, evaluate_all
from vqeval.cli.options import parser, settings_of
from vqeval.cli.tables import comparison_lines, level_lines, outcome_line, result_lines
from vqeval.errors import VqevalError
from vqeval.evaluation import Settings
from vqeval.video import Progress

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vqeval`; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except VqevalError as error:
        print(f"vqeval {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # who reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _evaluate(options: argparse.Namespace) -> int:
    entries = [Entry(path, reference=options.reference) for path in options.videos]
    return _judged(entries, settings_of(options), options.output, one_by_one=True)


def _batch(options: argparse.Namespace) -> int:
    return _judged(entries_of(options.source), settings_of(options), options.output, one_by_one=False)


def _judged(entries: Sequence[Entry], settings: Settings, output: Path | None, *, one_by_one: bool) -> int:
    """Evaluate, print and write; a single video that cannot be judged ends with 2, one among others with 1."""
    outcomes = []
    writer = None
    if output is not None:
        from vqeval.writing import Writer

        writer = Writer(output)
    for outcome in _with_progress(entries, settings):
        outcomes.append(outcome)
        if one_by_one and outcome.result is not None:
            print("\n".join(result_lines(outcome.result)))
        else:
            line = outcome_line(outcome)
            print(line, file=sys.stderr if outcome.error else sys.stdout)
        if writer is not None:
            writer.add(outcome)
    if writer is not None:
        print(f"results in {writer.folder}")
    if all(outcome.result is None for outcome in outcomes):
        return 2
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _with_progress(entries: Sequence[Entry], settings: Settings) -> Iterator[Outcome]:
    with _bars(len(entries)) as (start, done):
        for outcome in evaluate_all(entries, settings, start):
            done()
            yield outcome


@contextlib.contextmanager
def _bars(videos: int) -> Iterator[tuple[Callable[[Entry], Progress], Callable[[], None]]]:
    """A bar of the frames of the running video, with its number; none where nobody watches."""
    from tqdm import tqdm

    count = 0
    with tqdm(unit="frame", leave=False, dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:

        def start(entry: Entry) -> Progress:
            bar.reset()
            bar.set_description(f"{count + 1}/{videos} {entry.path.name}")

            def progress(frames: int, expected: int) -> None:
                bar.total = expected or None
                bar.update(frames - bar.n)

            return progress

        def done() -> None:
            nonlocal count
            count += 1
            bar.clear()

        yield start, done


def _compare(options: argparse.Namespace) -> int:
    from vqeval.comparison import compare
    from vqeval.page import comparison_page
    from vqeval.writing import made_folder, write_rows

    settings = settings_of(options)
    with _bars(_count(options.a) + _count(options.b)) as (start, done):

        def next_video(entry: Entry) -> Progress:
            done()
            return start(entry)

        found = compare(options.a, options.b, settings=settings, progress=next_video)
    print("\n".join(comparison_lines(found)))
    folder = made_folder(options.output)
    (folder / "comparison.json").write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / "comparison.html").write_text(comparison_page(found), encoding="utf-8")
    write_rows(folder / "comparison.csv", [row.model_dump() for row in found.rows])
    print(f"results in {folder}")
    return 1 if any("no partner" not in reason for reason in found.left_out.values()) else 0


def _count(folder: Path) -> int:
    from vqeval.batch import videos_in

    return len(videos_in(folder)) if folder.is_dir() else 0


def _calibrate(options: argparse.Namespace) -> int:
    from vqeval.calibration import levels
    from vqeval.writing import made_folder, write_rows

    outcomes = list(_with_progress(entries_of(options.source), Settings()))
    for outcome in outcomes:
        if outcome.error:
            print(outcome_line(outcome), file=sys.stderr)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    if not results:
        return 2
    found = levels(results)
    print("\n".join(level_lines(found)))
    folder = made_folder(options.output)
    write_rows(folder / "calibration.csv", [level.model_dump() for level in found])
    print(f"results in {folder}")
    return 1 if len(results) < len(outcomes) else 0


def _selfcheck(options: argparse.Namespace) -> int:
    from vqeval.checks.selfcheck import selfcheck

    return selfcheck(options.videos, thorough=options.thorough, output=options.output, say=print)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "evaluate": _evaluate,
    "batch": _batch,
    "compare": _compare,
    "calibrate": _calibrate,
    "selfcheck": _selfcheck,
}

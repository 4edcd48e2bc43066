"""`vqeval selfcheck`: the ten sanity tests on one's own clips, as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vqeval.checks import general, sanity, scenes
from vqeval.checks.clip import load
from vqeval.checks.report import Line, Subject

#: The sanity tests by number, each in a few words.
TESTS = {
    1: "real > slowed > looped > frozen; an edit moves its own dimension only",
    2: "real clips are neither frozen nor looped",
    3: "loops of every kind are found with their lag",
    4: "there-and-back is found; periodic motion is no loop",
    5: "kinds of stillness are told apart",
    6: "direction, mirror image, tone, crop, size, rate and codec do not matter",
    7: "more of it is worse",
    8: "noise, one colour, a cut, very short: a value or a sentence",
    9: "the same file gives the same result",
    10: "pairs show a difference that is there, and none that is not",
}


def lines(subjects: Sequence[Subject], folder: Path, *, thorough: bool) -> Iterator[Line]:
    """All sanity tests."""
    for subject in subjects:
        yield from sanity.order(subject)
        yield from sanity.own_dimension(subject)
        yield from sanity.real(subject)
        yield from sanity.loops(subject, thorough=thorough)
        yield from sanity.there_and_back(subject)
        yield from sanity.freezes(subject)
        yield from sanity.invariances(subject)
        yield from sanity.doses(subject)
        yield from general.repeated(subject)
    yield from general.periodic(folder)
    yield from general.odd_input(folder)
    yield from general.paired(subjects)


def selfcheck(
    videos: Sequence[Path], *, thorough: bool = False, output: Path | None = None, say: Callable[[str], object] = print
) -> int:
    """Run the sanity tests and say what came of them; 0 if all hold, else 1.

    Args:
        videos: real videos without loops or freezes; none: rendered clips.
        thorough: every kind of loop with every period. output: folder for ``selfcheck.json``.

    Raises:
        VideoError: one of the videos cannot be read.
    """
    from tqdm import tqdm

    found: list[Line] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        subjects = [Subject(path.name, load(path), folder) for path in videos]
        subjects = subjects or [Subject(f"rendered {name}", scene(), folder) for name, scene in scenes.REAL.items()]
        bar = tqdm(
            lines(subjects, folder, thorough=thorough), unit="check", disable=not sys.stderr.isatty(), leave=False
        )
        for line in bar:
            found.append(line)
            bar.set_description(f"{line.test} {line.clip}: {line.edit}")
    for text in summary(found):
        say(text)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        rows = [line.as_row() for line in found]
        (output / "selfcheck.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0 if all(line.passed for line in found) else 1


def summary(found: Sequence[Line]) -> Iterator[str]:
    """A line for each test, and below it those expectations that do not hold."""
    for number, text in TESTS.items():
        of_test = [line for line in found if line.test == number]
        held = sum(line.passed for line in of_test)
        yield f"{number:2}  {held:3} of {len(of_test):3}  {text}"
        for line in of_test:
            if not line.passed:
                yield f"      {line.clip}, {line.edit}: expected {line.expected}; found {line.found}"

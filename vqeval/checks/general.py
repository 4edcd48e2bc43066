"""The sanity tests that need no clip of one's own, or all of them: 4 (periodic motion), 8, 9 and 10."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from vqeval.checks import edits, scenes
from vqeval.checks.clip import write
from vqeval.checks.report import Edit, Line, Subject, value
from vqeval.comparison import LEAST_PROMPTS, row
from vqeval.errors import VideoError
from vqeval.evaluation import evaluate
from vqeval.result import Result


def periodic(folder: Path) -> Iterator[Line]:
    """4: real motion that is periodic is well below a copied loop."""
    for name, scene in scenes.PERIODIC.items():
        subject = Subject(f"rendered {name}", scene(), folder)
        found, most = value(subject.real, "loop"), 0.7 if name == "wheel" else 1 / 3
        copied = value(subject.measure(edits.looped(subject.clip, len(subject.clip) / 3)), "loop")
        text = f"loop {found:.2f}, copied {copied:.2f}"
        yield Line(4, subject.name, "as it is", f"{most:.2g} of a copied loop at most", text, found <= most * copied)


def odd_input(folder: Path) -> Iterator[Line]:
    """8: noise, one colour, a cut, less than a second, one frame: a defined value or one sentence."""
    first, second = scenes.pan(), scenes.hand_held()
    clips = {
        "pure noise": scenes.static_noise(),
        "black": scenes.one_colour(),
        "white": scenes.one_colour(level=255),
        "a cut": scenes.cut(first, second),
        "half a second": first.with_frames(first.frames[:8]),
        "two frames": first.with_frames(first.frames[:2]),
        "one frame": first.with_frames(first.frames[:1]),
    }
    for name, clip in clips.items():
        try:
            text, passed = _defined(Subject(name, clip, folder).real)
        except VideoError as error:
            text, passed = str(error).split(": ", 1)[-1], name == "one frame"
        yield Line(8, "rendered", name, "a value or a sentence, no NaN", text, passed)


def _defined(result: Result) -> tuple[str, bool]:
    numbers = [x for d in result.dimensions.values() for x in (d.value, d.score, *d.details.values()) if x is not None]
    without = [name for name, d in result.dimensions.items() if d.value is None and not d.reason]
    judged = [
        f"{name} {result.dimensions[name].value:.2f}"
        for name in ("freeze", "loop")
        if result.dimensions[name].value is not None
    ]
    text = ", ".join([*judged, *(f"{name} not judged" for name, d in result.dimensions.items() if d.value is None)])
    return text, not without and all(map(math.isfinite, numbers))


def repeated(subject: Subject) -> Iterator[Line]:
    """9: the same file gives the same result, whatever the number of threads."""
    path = write(edits.looped(subject.clip, len(subject.clip) / 3), subject.folder / "twice.mp4")
    threads = cv2.getNumThreads()
    found = []
    try:
        for count in (threads, threads, 1):
            cv2.setNumThreads(count)
            found.append(evaluate(path).model_dump_json())
    finally:
        cv2.setNumThreads(threads)
    passed = len(set(found)) == 1
    yield Line(
        9, subject.name, "twice, and on one thread", "the same to the last digit", "same" if passed else "other", passed
    )


#: Versions of a clip that are as good as it, and so can stand for its seeds.
_AS_GOOD: tuple[Edit, ...] = (lambda clip: clip, edits.flipped, edits.backwards)


def paired(subjects: Sequence[Subject]) -> Iterator[Line]:
    """10: pairs show the difference between methods that is there, and none that is not."""
    subjects = [*subjects, *_rendered(LEAST_PROMPTS - len(subjects), subjects[0].folder)]
    prompts, same, other, worse = [], [], [], []
    for subject in subjects:
        for edit in _AS_GOOD:
            clip = edit(subject.clip)
            prompts.append(subject.name)
            same.append(subject.measure(clip).composite or 0.0)
            other.append(subject.measure(clip, options={"crf": "18"}).composite or 0.0)
            worse.append(subject.measure(edits.partly(clip, edits.looped(clip, len(clip) / 6), 0.5)).composite or 0.0)
    spread = float(np.std(same))
    for name, sample, expected in (
        ("compressed a little more", other, "no difference shown"),
        ("last half looped", worse, "A is higher"),
    ):
        found = row("composite", "score", prompts, np.array(same), np.array(sample))
        between = f"{found.difference:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
        text = f"{found.verdict}, {between}; spread of clips {spread:.1f}"
        small = expected != "no difference shown" or abs(found.difference) < 1.0
        passed = found.verdict == expected or (expected == "no difference shown" and small)
        yield Line(10, f"{len(subjects)} clips x {len(_AS_GOOD)}", name, expected, text, passed)


def _rendered(count: int, folder: Path) -> list[Subject]:
    return [Subject(f"rendered {name}", scene(), folder) for name, scene in list(scenes.REAL.items())[: max(0, count)]]

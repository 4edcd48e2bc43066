"""What a sanity test found: lines of a table that say what was expected, what was measured, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vqeval.analysis import Analysis
from vqeval.checks.clip import Clip, write
from vqeval.evaluation import Settings, evaluate_with
from vqeval.result import Result


@dataclass(frozen=True)
class Line:
    """One expectation.

    Args:
        test: number of the sanity test, 1 to 10. clip, edit: what was measured. expected: in words. found: in words.
    """

    test: int
    clip: str
    edit: str
    expected: str
    found: str
    passed: bool

    def as_row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """A clip under its name, and a place to write its edits to."""

    name: str
    clip: Clip
    folder: Path

    def measure(self, clip: Clip, *, ending: str = ".mp4", paired: bool = False, **encoding: Any) -> Result:
        """Write an edit as a video and evaluate that, with the clip itself as the reference where it is ``paired``."""
        path = write(clip, self.folder / f"edit{ending}", **encoding)
        result, _ = evaluate_with(path, Settings(), self._real[1] if paired else None)
        path.unlink()
        return result

    @cached_property
    def _real(self) -> tuple[Result, Analysis]:
        return evaluate_with(write(self.clip, self.folder / "real.mp4"), Settings())

    @property
    def real(self) -> Result:
        """The clip itself."""
        return self._real[0]


Edit = Callable[[Clip], Clip]


def value(result: Result, name: str) -> float:
    """A value as it counts in a check: no value is none of it."""
    return result.dimensions[name].value or 0.0


def lag_frames(result: Result) -> float | None:
    """The lag of a loop in frames that were compared."""
    lag = result.dimensions["loop"].lag_seconds
    return None if lag is None else lag * result.video.rate

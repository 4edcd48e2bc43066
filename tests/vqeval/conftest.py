"""Clips that the tests of VQeval share, and how one is measured."""

from pathlib import Path

import pytest

from tests.support.clips import Measure, eight_clips
from vqeval import Result, evaluate
from vqeval.checks.clip import Clip, write


@pytest.fixture(scope="session")
def clips() -> dict[str, Clip]:
    """Eight clips of different kinds by name."""
    return eight_clips()


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """Write a clip as a video and evaluate it."""

    def run(clip: Clip, /, *, ending: str = ".mp4", reference: Clip | None = None, **how: object) -> Result:
        before = None if reference is None else write(reference, tmp_path / "reference.mp4")
        encoding = {name: how.pop(name) for name in ("codec", "options") if name in how}
        return evaluate(write(clip, tmp_path / f"clip{ending}", **encoding), reference=before, **how)  # type: ignore[arg-type]

    return run

"""The ten sanity tests on clips that the constants of the measure were not chosen on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vqeval.conftest import NAMES
from vqeval.checks import general, sanity
from vqeval.checks.clip import Clip
from vqeval.checks.report import Line, Subject

Check = Callable[[Subject], Iterator[Line]]

every_clip = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def subject(name: str, clips: dict[str, Clip], tmp_path: Path) -> Subject:
    return Subject(name, clips[name], tmp_path)


def holds(lines: Iterator[Line]) -> None:
    found = list(lines)
    assert found
    assert [line for line in found if not line.passed] == []


@every_clip
def test_1_order(subject: Subject) -> None:
    holds(sanity.order(subject))


@every_clip
def test_1_an_edit_moves_its_own_dimension_only(subject: Subject) -> None:
    assert len(sanity.OWN) >= 12
    holds(sanity.own_dimension(subject))


@every_clip
def test_2_no_false_alarm(subject: Subject) -> None:
    holds(sanity.real(subject))


@every_clip
def test_3_loops(subject: Subject) -> None:
    holds(sanity.loops(subject))


@pytest.mark.thorough
@every_clip
def test_3_every_kind_of_loop(subject: Subject) -> None:
    holds(sanity.loops(subject, thorough=True))


@every_clip
def test_4_there_and_back(subject: Subject) -> None:
    holds(sanity.there_and_back(subject))


def test_4_periodic_motion_is_no_loop(tmp_path: Path) -> None:
    holds(general.periodic(tmp_path))


@every_clip
def test_5_kinds_of_stillness(subject: Subject) -> None:
    holds(sanity.freezes(subject))


@pytest.mark.parametrize("name", ["bikes", "hand-held"])
def test_6_invariances(subject: Subject) -> None:
    holds(sanity.invariances(subject))


@pytest.mark.thorough
@every_clip
def test_6_invariances_of_every_clip(subject: Subject) -> None:
    holds(sanity.invariances(subject))


@every_clip
def test_7_doses(subject: Subject) -> None:
    holds(sanity.doses(subject))


def test_8_odd_input(tmp_path: Path) -> None:
    holds(general.odd_input(tmp_path))


@pytest.mark.parametrize("name", ["bikes"])
def test_9_twice_the_same(subject: Subject) -> None:
    holds(general.repeated(subject))


def test_10_pairs(clips: dict[str, Clip], tmp_path: Path) -> None:
    subjects = [Subject(name, clip, tmp_path) for name, clip in list(clips.items())[:5]]
    holds(general.paired(subjects))

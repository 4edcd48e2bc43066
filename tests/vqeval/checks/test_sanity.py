"""The ten sanity tests, on three real clips and five rendered ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clips import NAMES
from vqeval.checks import general, sanity
from vqeval.checks.clip import Clip
from vqeval.checks.report import Line, Subject

pytestmark = pytest.mark.slow


def each_clip(**short: str) -> pytest.MarkDecorator:
    """Every clip.

    Args:
        short: by clip, what the measure does not do yet. Strict, so that who mends it takes the line out.
    """

    def case(name: str) -> object:
        reason = short.get(name.replace(" ", "_").replace("-", "_"))
        return pytest.param(name, marks=[pytest.mark.xfail(reason=reason, strict=True)] if reason else [])

    return pytest.mark.parametrize("name", map(case, NAMES))


@pytest.fixture
def subject(name: str, clips: dict[str, Clip], tmp_path: Path) -> Subject:
    return Subject(name, clips[name], tmp_path)


def holds(lines: Iterator[Line]) -> None:
    found = list(lines)
    assert found
    assert [line for line in found if not line.passed] == []


@each_clip()
def test_1_order(subject: Subject) -> None:
    holds(sanity.order(subject))


@each_clip()
def test_1_an_edit_moves_its_own_dimension_only(subject: Subject) -> None:
    assert len(sanity.OWN) >= 12
    holds(sanity.own_dimension(subject))


@each_clip()
def test_2_no_false_alarm(subject: Subject) -> None:
    holds(sanity.real(subject))


@pytest.mark.parametrize("name", ["talking head"])  # which does not pass the next test, that has these loops too
def test_3_loops(subject: Subject) -> None:
    holds(sanity.loops(subject))


@each_clip(talking_head="under shaking a loop of 24.2 frames has twice its lag")
def test_3_every_kind_of_loop(subject: Subject) -> None:
    holds(sanity.loops(subject, thorough=True))


@each_clip()
def test_4_there_and_back(subject: Subject) -> None:
    holds(sanity.there_and_back(subject))


def test_4_periodic_motion_is_no_loop(tmp_path: Path) -> None:
    holds(general.periodic(tmp_path))


@each_clip(bigbuckbunny="an encoder leaves grain in 19 % of the frames of a still")
def test_5_kinds_of_stillness(subject: Subject) -> None:
    holds(sanity.freezes(subject))


@each_clip(carphone_pristine="at half of 160 pixels a loop is hardly seen")
def test_6_invariances(subject: Subject) -> None:
    holds(sanity.invariances(subject))


@each_clip(carphone_pristine="all that can repeat does so from 75 % on")
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

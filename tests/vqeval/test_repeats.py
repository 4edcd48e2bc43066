"""Loops and there-and-back: which frames, which lag; what is none."""

from pathlib import Path

import numpy as np
import pytest

from vqeval.analysis import Analysis
from vqeval.checks import edits, scenes
from vqeval.checks.clip import Clip, write
from vqeval.checks.sanity import start_of_loop
from vqeval.video import read


def analysed(clip: Clip, folder: Path) -> Analysis:
    return Analysis.of(read(write(clip, folder / "clip.mp4")))


def test_which_frames_repeat(tmp_path: Path) -> None:
    """The second half of a video of two periods, all of it; none of the first."""
    found = analysed(edits.looped(scenes.pan(96), 48), tmp_path).loop
    assert found is not None and found.lag == 48
    assert not found.frames[:47].any() and found.frames[49:].mean() > 0.95


@pytest.mark.parametrize(("name", "period"), [("carphone_pristine", 60 / 3.3), ("hand-held", 13), ("talking head", 40)])
def test_a_loop_under_shaking(name: str, period: float, clips: dict[str, Clip], tmp_path: Path) -> None:
    """Twice the lag hides less of the first two; in the last, one place is better known than a path."""
    loop = edits.looped(clips[name], period, start=start_of_loop(clips[name]))
    found = analysed(edits.jittered(loop), tmp_path).loop
    assert found is not None and found.lag == pytest.approx(period, abs=1) and found.share > 0.15


@pytest.mark.parametrize("period", [12, 17, 24.5, 33.3, 40])
def test_the_lag_is_that_of_one_period_and_not_of_two(period: float, tmp_path: Path) -> None:
    found = analysed(edits.looped(scenes.hand_held(128), period), tmp_path).loop
    assert found is not None and found.lag is not None
    assert abs(found.lag - period) <= 1


def test_a_slow_loop_has_its_lag_too(tmp_path: Path) -> None:
    """Neighbouring frames are much alike: the lag is still known to the frame."""
    slow = edits.slowed(scenes.pan(96), 3)
    found = analysed(edits.looped(slow, 31), tmp_path).loop
    assert found is not None and found.lag == 31


def test_where_it_turns(tmp_path: Path) -> None:
    found = analysed(edits.there_and_back(scenes.pan(97)), tmp_path).mirror
    assert found is not None and found.turns[0] == pytest.approx(48, abs=0.5)
    assert not found.frames[:50].any() and found.frames[56:].mean() > 0.9
    assert found.lag is None


def test_a_still_part_repeats_nothing(tmp_path: Path) -> None:
    """Stillness is the freeze's: its frames are all alike, and are no loop."""
    found = analysed(edits.frozen(scenes.pan(96), 0.6), tmp_path)
    assert found.loop is not None and found.loop.share == 0 and found.loop.lag is None
    assert found.mirror is not None and found.mirror.share == 0


def test_too_little_motion(tmp_path: Path) -> None:
    found = analysed(edits.frozen(scenes.pan(64), 0.96), tmp_path)
    assert found.moving.mean() < 0.1
    assert found.loop is None and found.mirror is None


def test_a_cut_back_to_an_earlier_scene_is_no_loop(tmp_path: Path) -> None:
    """The same place and the same kind of motion, filmed later: a pan that comes back along another way."""
    pan = scenes.pan(48, seed=11)
    other = scenes.pan(96, seed=11)
    clip = pan.with_frames(np.concatenate([pan.frames, scenes.hand_held(30).frames, other.frames[::2][:48]]))
    found = analysed(clip, tmp_path).loop
    assert found is not None and found.share == 0


@pytest.mark.parametrize("count", [2, 5, 9, 14, 20])
def test_short_videos(count: int, tmp_path: Path) -> None:
    found = analysed(scenes.pan(count), tmp_path)
    for repeats in (found.loop, found.mirror):
        assert repeats is not None and repeats.share == 0

"""Motion, flicker, drift, the return to the start, freezes: measured amounts against known ones."""

from pathlib import Path

import numpy as np
import pytest

from vqeval import course
from vqeval.analysis import Analysis
from vqeval.checks import edits, scenes
from vqeval.checks.clip import Clip, write
from vqeval.video import read


def analysed(clip: Clip, folder: Path) -> Analysis:
    return Analysis.of(read(write(clip, folder / "clip.mp4")))


def test_motion_is_that_of_the_camera(tmp_path: Path) -> None:
    """Two pixels a frame to the right, at 16 a second, of a diagonal of 186.6 pixels."""
    picture = scenes.texture((640, 192), 0)
    clip = Clip(np.stack([scenes.view(picture, 2 * t, 20, 1.0) for t in range(64)]), 16)
    found = analysed(clip, tmp_path).motion
    assert found.mean == pytest.approx(100 * 2 * 16 / np.hypot(160, 96), rel=0.15)
    assert found.seconds[-1] < 64 / 16 and len(found.seconds) == len(found.speed)


@pytest.mark.parametrize("rate", [12.0, 24.0, 30.0, 60.0])
def test_motion_does_not_depend_on_the_rate(rate: float, tmp_path: Path) -> None:
    base = analysed(scenes.pan(96), tmp_path).motion.mean
    assert analysed(edits.at_rate(scenes.pan(96), rate), tmp_path).motion.mean == pytest.approx(base, rel=0.15)


def test_slower_is_less_motion(tmp_path: Path) -> None:
    base = analysed(scenes.pan(96), tmp_path).motion.mean
    for slower in (edits.slowed, edits.duplicated):
        clip = slower(scenes.pan(96))
        clip = Clip(clip.frames, 16.0)
        assert analysed(clip, tmp_path).motion.mean == pytest.approx(base / 2, rel=0.2)


def test_flicker_is_measured_in_levels(tmp_path: Path) -> None:
    """Brightness that jumps up and down by 2 levels each frame has second differences of 8."""
    still = edits.frozen(scenes.pan(40)).frames.astype(np.int16)
    jumps = np.where(np.arange(40) % 2, 2, -2)[:, None, None, None]
    clip = Clip(np.clip(still + jumps, 0, 255).astype(np.uint8), 16)
    assert course.flicker(analysed(clip, tmp_path).video) == pytest.approx(8, abs=1)


def test_motion_and_a_cut_are_no_flicker(tmp_path: Path) -> None:
    for clip in (scenes.hand_held(), scenes.cut(scenes.pan(), scenes.one_colour(96, 220))):
        assert course.flicker(analysed(clip, tmp_path).video) < 1


def test_drift_is_a_logarithm(tmp_path: Path) -> None:
    clip = edits.fading(edits.frozen(scenes.pan(80)), 0.5)
    found = course.drift(analysed(clip, tmp_path).video.traits)
    # The mean of the last 15 % over that of the first: (0.5 + 0.0375) / (1 - 0.0375).
    for name in ("contrast", "saturation"):
        assert found[name] == pytest.approx(np.log(0.5375 / 0.9625), abs=0.12)
    assert found["sharpness"] < -0.1, "grain and rounding are part of it"
    assert found["brightness"] == pytest.approx(0, abs=0.05)
    brighter = edits.brightness_drift(edits.frozen(scenes.pan(80)), 0.8, 1.0)
    assert course.drift(analysed(brighter, tmp_path).video.traits)["brightness"] == pytest.approx(0.19, abs=0.05)


def test_the_return_to_the_start(tmp_path: Path) -> None:
    away = course.return_to_start(analysed(scenes.pan(), tmp_path).similarity)
    back = course.return_to_start(analysed(edits.looped(scenes.pan(), 40), tmp_path).similarity)
    assert away is not None and back is not None
    assert away[0] > 0.5 and back[0] < 0.1 and back[1] % 40 in (39, 0, 1)
    assert course.return_to_start(analysed(scenes.one_colour(30), tmp_path).similarity) is None


def test_a_slow_pan_of_many_frames_a_second_does_not_stand_still(tmp_path: Path) -> None:
    """Over a single frame it does: the reason for a span in seconds."""
    slow = edits.at_rate(edits.slowed(scenes.pan(96), 3), 60)
    found = analysed(slow, tmp_path)
    assert found.still.mean() == 0
    single = np.abs(np.diff(found.video.luma, axis=0)).mean(axis=(1, 2))
    assert np.median(single) < 1.5


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_share_of_still_frames(share: float, tmp_path: Path) -> None:
    found = analysed(edits.frozen(scenes.hand_held(96), share), tmp_path)
    assert found.still.mean() == pytest.approx(share, abs=0.06)


def test_a_moving_tenth_is_motion_and_a_hundredth_is_not(tmp_path: Path) -> None:
    base = edits.frozen(scenes.pan(64))
    for side, stands in ((40, False), (10, True)):
        frames = base.frames.copy()
        frames[:, 30 : 30 + side, 60 : 60 + side] = scenes.static_noise(64).frames[:, :side, :side]
        found = analysed(base.with_frames(frames), tmp_path)
        assert (found.still.mean() > 0.9) == stands

"""Products of pictures: against plain formulas, exact whatever the order of sums, blind to brightness and contrast."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vqeval.checks import edits, scenes
from vqeval.checks.clip import write
from vqeval.similarity import BOX, Similarity, boxed, noise_level
from vqeval.video import Video, read


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    return read(write(scenes.hand_held(40), tmp_path_factory.mktemp("video") / "clip.mp4"))


def of(video: Video, noise: float = 0.0) -> Similarity:
    return Similarity.of(video, boxed(video.luma), noise)


def plain(video: Video) -> np.ndarray:
    """[T, n] pictures without their mean, of deviation 1."""
    flat = boxed(video.luma)[:, ::2, ::2].reshape(len(video), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    found: np.ndarray = flat / flat.std(axis=1, keepdims=True)
    return found


def test_distance_is_the_root_of_the_mean_squared_difference(video: Video) -> None:
    pictures = plain(video)
    expected = np.sqrt(((pictures[:, None] - pictures[None]) ** 2).mean(axis=-1))
    assert of(video).distance == pytest.approx(expected, abs=3e-3)


def test_products_do_not_depend_on_the_order_of_sums(video: Video) -> None:
    turned = replace(video, luma=np.ascontiguousarray(video.luma[::-1, ::-1, ::-1]))
    first, second = of(video), of(turned)
    if video.luma.shape[1] % 2 and video.luma.shape[2] % 2:
        assert (first.products == second.products[::-1, ::-1]).all()
    whole = first.products * 256**2 * plain(video).shape[1]
    assert np.abs(whole - np.rint(whole)).max() < 1e-2 and np.abs(whole).max() < 2**53


def test_brightness_and_contrast_do_not_matter(video: Video) -> None:
    changed = replace(video, luma=video.luma * np.linspace(0.5, 1.2, len(video), dtype=np.float32)[:, None, None] + 7)
    assert of(changed).distance == pytest.approx(of(video).distance, abs=2e-2)


def test_motion_is_the_product_of_differences(video: Video) -> None:
    pictures, similarity = plain(video), of(video)
    span, later, earlier = similarity.span, np.array([20, 31]), np.array([9, 12])
    forwards = pictures[later] - pictures[later - span]
    expected = (forwards * (pictures[earlier] - pictures[earlier - span])).mean(axis=1)
    assert similarity.motion(later, earlier) == pytest.approx(expected, abs=2e-3)
    backwards = (forwards * (pictures[earlier] - pictures[earlier + span])).mean(axis=1)
    assert similarity.motion(later, earlier, back=True) == pytest.approx(backwards, abs=2e-3)
    assert similarity.energy[20] == pytest.approx((forwards[0] ** 2).mean(), abs=2e-3)
    assert (similarity.energy[:span] == 0).all()


@pytest.mark.parametrize("deviation", [2.0, 4.0, 8.0])
def test_the_noise_of_a_still_is_known(deviation: float, video: Video) -> None:
    generator = np.random.default_rng(0)
    still = np.repeat(video.luma[:1], 40, axis=0)
    luma = (still + generator.normal(0, deviation, still.shape)).astype(np.float32)
    level = noise_level(luma, boxed(luma))
    assert level == pytest.approx(deviation, rel=0.1)
    noisy = replace(video, luma=luma)
    distance = of(noisy, level).distance
    assert np.median(distance[np.triu_indices(40, 1)]) < 0.5 * np.median(of(noisy).distance[np.triu_indices(40, 1)])
    assert BOX == 5


def test_motion_is_no_noise(video: Video, tmp_path: Path) -> None:
    """A moving clip with a grain of one level is not taken for a noisy one; repeated frames do not hide the grain."""
    assert noise_level(video.luma, boxed(video.luma)) < 2.5
    twice = read(write(edits.duplicated(scenes.slide(24)), tmp_path / "twice.mp4", options={"crf": "4"}))
    assert 0.3 < noise_level(twice.luma, boxed(twice.luma)) < 2.5

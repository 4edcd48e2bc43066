"""Pairs of videos: who belongs to whom, the interval, and what is said of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.clips import put
from vqeval import InputError, Result, compare, evaluate
from vqeval.checks import edits, scenes
from vqeval.checks.clip import write
from vqeval.comparison import DRAWS, interval, pairs_needed, row
from vqeval.evaluation import Settings
from vqeval.learned import Learned


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five prompts with two seeds each; in B the last half of each video is a loop. File names say nothing."""
    root = tmp_path_factory.mktemp("compare")
    number = 0
    for prompt in range(5):
        for seed in (1, 2):
            clip, number = scenes.pan(64, seed=number), number + 1
            put(root / "A", f"{9 - number:02}", clip, f"prompt {prompt}", seed)
            looped = edits.partly(clip, edits.looped(clip, 12), 0.75)
            put(root / "B", f"{number:02}", looped, f"prompt {prompt}", seed)
    return root / "A", root / "B"


def test_loops_are_seen_as_a_difference(folders: tuple[Path, Path]) -> None:
    found = compare(*folders)
    rows = {row.name: row for row in found.rows}
    assert len(found.pairs) == 10 and found.left_out == {}
    assert all(pair.a.video.path.startswith(str(folders[0])) for pair in found.pairs)
    for name in ("composite", "loop"):
        assert rows[name].verdict == "A is higher" and rows[name].high is not None and rows[name].high < 0
        assert rows[name].needed is not None and rows[name].needed <= 20
    assert rows["freeze"].verdict == "no difference shown"
    assert rows["motion"].quantity == "value" and rows["motion"].reason is None


def test_a_folder_with_itself_shows_no_difference(folders: tuple[Path, Path]) -> None:
    found = compare(folders[0], folders[0])
    assert {row.verdict for row in found.rows} == {"no difference shown"}
    assert {(row.difference, row.low, row.high, row.needed) for row in found.rows} == {(0.0, 0.0, 0.0, None)}


def test_videos_without_a_partner_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    clip = scenes.pan(32)
    put(tmp_path / "A", "one", clip, "a", 1)
    put(tmp_path / "A", "two", clip, "a", 2)
    write(clip, tmp_path / "A" / "three.mp4")
    put(tmp_path / "B", "one", clip, "a", 1)
    put(tmp_path / "B", "two", clip, "b", 2)
    found = compare(tmp_path / "A", tmp_path / "B")
    assert {Path(path).name: reason for path, reason in found.left_out.items()} == {
        "two.mp4": "has no partner",
        "three.mp4": "the JSON beside it names no prompt and seed",
    }
    assert {row.verdict for row in found.rows} == {"too few prompts to tell"}
    assert found.rows[0].reason == "an interval needs at least 5 prompts, there are 1"


def test_a_video_that_cannot_be_judged_is_left_out(tmp_path: Path) -> None:
    clip = scenes.pan(32)
    for side in "AB":
        put(tmp_path / side, "one", clip, "a", 1)
        put(tmp_path / side, "two", clip, "a", 2)
    (tmp_path / "B" / "two.mp4").write_text("broken")
    found = compare(tmp_path / "A", tmp_path / "B")
    assert len(found.pairs) == 1
    ((path, reason),) = found.left_out.items()
    assert path.endswith("two.mp4") and "is not a video that FFmpeg can read" in reason


def test_refuses_with_one_sentence(tmp_path: Path) -> None:
    clip = scenes.pan(16)
    with pytest.raises(InputError, match="there is no such folder"):
        compare(tmp_path / "A", tmp_path / "B")
    put(tmp_path / "A", "one", clip, "a", 1)
    put(tmp_path / "B", "one", clip, "b", 1)
    with pytest.raises(InputError, match="no two videos have the same prompt and seed"):
        compare(tmp_path / "A", tmp_path / "B")
    put(tmp_path / "A", "two", clip, "a", 1)
    with pytest.raises(InputError, match=r"one\.mp4 and two\.mp4 have the same prompt and seed; remove one"):
        compare(tmp_path / "A", tmp_path / "B")


def stored(path: Path, result: Result, **changes: object) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    record["vqeval"] = {**json.loads(result.model_dump_json()), **changes}
    path.with_suffix(".json").write_text(json.dumps(record))


def test_a_result_in_the_record_is_used_if_it_is_of_this_video(tmp_path: Path) -> None:
    path = put(tmp_path / "A", "one", scenes.pan(32), "a", 1)
    result = evaluate(path)
    marked = result.model_copy(update={"alarms": ["was read from the record"]})

    def alarms(settings: Settings | None = None) -> list[str]:
        return compare(tmp_path / "A", tmp_path / "A", settings=settings).pairs[0].a.alarms

    assert alarms() == []
    stored(path, marked)
    assert alarms() == ["was read from the record"]
    weighted = compare(tmp_path / "A", tmp_path / "A", settings=Settings(weights={"blur": 1.0}))
    assert weighted.pairs[0].a.composite == pytest.approx(result.dimensions["blur"].score)
    assert alarms(Settings(Learned(dino="nowhere"))) == [], "something else is asked for"
    stored(path, marked, vqeval="0.0.1")
    assert alarms() == [], "of another version"
    stored(path, marked)
    write(scenes.pan(32, seed=5), path)
    assert alarms() == [], "of another video"


def test_the_interval_covers_the_truth() -> None:
    """In about 95 of 100 cases; few groups make a bootstrap a little too sure."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        groups = [generator.normal(3.0, 1.0) + generator.normal(0, 1, 2) for _ in range(20)]
        low, high = interval(groups)
        covered += low <= 3.0 <= high
    assert 0.85 <= covered / 200 <= 0.99 and DRAWS >= 10_000


def test_seeds_of_a_prompt_are_no_independent_pairs() -> None:
    """Ten seeds of a prompt that all say the same do not make the interval shorter."""
    means = np.random.default_rng(1).normal(0, 1, 8)
    single, tenfold = interval([np.array([m]) for m in means]), interval([np.full(10, m) for m in means])
    assert single == pytest.approx(tenfold)
    prompts = [f"{i}" for i in range(8) for _ in range(10)]
    found = row("loop", "score", prompts, np.zeros(80), np.repeat(means, 10))
    assert (found.low, found.high) == pytest.approx(single) and found.pairs == 80


def test_pairs_needed() -> None:
    """By the usual formula: (1.96 + 0.84)^2 times variance over squared difference."""
    values = np.random.default_rng(2).normal(1.0, 2.0, 1000)
    needed = pairs_needed([np.array([value]) for value in values])
    assert needed == pytest.approx((2.8 * 2.0 / 1.0) ** 2, rel=0.2)
    assert pairs_needed([np.zeros(2)] * 6) is None

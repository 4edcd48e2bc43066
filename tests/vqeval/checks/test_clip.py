"""What a clip is written to."""

from pathlib import Path

import numpy as np

from tests.support.clips import eight_clips
from vqeval.checks import edits
from vqeval.checks.clip import write
from vqeval.checks.sanity import start_of_loop


def test_the_same_clip_is_the_same_file(tmp_path: Path) -> None:
    """Also of small pictures and with other things in memory: a loop is found in one file, and not in another."""
    clip = eight_clips()["carphone_pristine"]
    clip = edits.halved(edits.looped(clip, 20, start=start_of_loop(clip)))
    noise, kept, files = np.random.default_rng(0), [], set()
    for number in range(40):
        kept.append([noise.integers(0, 255, size, np.uint8) for size in noise.integers(1000, 400_000, 300)][::2])
        files.add(write(clip, tmp_path / f"{number}.mp4").read_bytes())
    assert len(files) == 1

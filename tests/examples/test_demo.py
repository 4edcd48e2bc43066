"""The demo, as make demo runs it, on a shorter video."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

DEMO = [sys.executable, str(Path(__file__).parents[2] / "examples" / "demo.py")]


@pytest.mark.engine
@pytest.mark.skipif(find_spec("vllm_omni") is None, reason="needs vLLM-Omni")
def test_three_videos_and_what_is_drawn_of_them(tmp_path: Path) -> None:
    command = [
        *DEMO,
        "--horizon",
        "1.5",
        "--output-dir",
        str(tmp_path),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LVSA_")}
    environment["LVSA_ROTATE_AFTER"] = "0.1"  # a setting of one's own
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for said in (
        "== no model named: Toy Wan",
        "dense: the request asks for it",
        "[LVSA] installed on 4 blocks num_patches=16 total_lat_frames=31",
        "denoising step 25 of 25",
        "== dense attention: loop ",
        "== with LVSA: loop ",
        "== LVSA, recipe=long: loop ",
    ):
        assert said in done.stdout, done.stdout
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "videos").glob("*.json"))]
    assert [record["ran"]["sparse"] for record in records] == [False, True, True]
    dense, lvsa, recipe = (pixels(path) for path in sorted((tmp_path / "videos").glob("*.mp4")))
    assert dense.shape == lvsa.shape == recipe.shape == (121, 64, 64, 3)
    assert min(np.abs(one - other).mean() for one, other in ((dense, lvsa), (lvsa, recipe))) > 1
    together = pixels(tmp_path / "together.mp4")
    assert together.shape == (121, 352, 976, 3)  # each enlarged five times, below a caption, with gaps between
    for video, left in ((dense, 0), (lvsa, 328), (recipe, 656)):
        shown = together[:, 34:350:5, left + 2 : left + 320 : 5]
        assert np.abs(shown - video[:, :64, :64]).mean() < 4
    assert (tmp_path / "together.png").stat().st_size < 300_000
    assert min(Image.open(tmp_path / "together.png").size) > 400 and (tmp_path / "pattern.png").exists()


def pixels(path: Path) -> np.ndarray:
    """Frames [N, H, W, 3] as numbers."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    command = [
        *DEMO,
        "--model",
        "/nowhere",
        "--output-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "/nowhere: no such folder" in done.stdout and "error: the demo failed" in done.stderr

"""`examples/offline_lvsa.py` on the real engine, on the CPU, with a tiny Wan.

Three processes for all tests: a batch with LVSA that is interrupted in its third prompt, the same batch resumed, and
the baseline on an engine that dies in between. Most of their time is imports, so the baseline runs beside the first.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from vqeval.video import digest

pytestmark = pytest.mark.engine

SCRIPT = Path(__file__).parents[2] / "examples" / "offline_lvsa.py"
MORTAL = Path(__file__).with_name("mortal_engine.py")

LONG = {"prompt": "A cat, on a mat", "num_frames": 97}  # 25 latent frames, the training length is 21
# A size that divides, but has more rows of patches than the model has positions: the engine fails within the request.
TALL = {"prompt": "too tall", "num_frames": 1, "height": 16400, "width": 16}
SLOW = {"prompt": "slow", "num_frames": 321, "height": 256, "width": 256}
OWN = {**LONG, "prompt": "half", "lvsa": {"sparsity_scale": 0.5}}
SHORT = {"prompt": "a dog", "seed": 7, "num_frames": 9, "height": 48, "width": 80}
COUNTER = itertools.count()
DTYPE = "bfloat16" if torch.accelerator.is_available() else "float32"  # an accelerator's attention has no float32


@dataclass
class Run:
    """A process of the script, running or ended."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path
    status: int = 0
    files: set[str] = field(default_factory=set)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> "Run":
        """Wait for the process, and keep what lay in the folder then."""
        self.status = self.process.wait(timeout=180)
        self.files = set(os.listdir(self.folder))
        return self

    def record(self, start: str) -> dict[str, Any]:
        """The record whose name begins so."""
        (path,) = self.folder.glob(f"{start}*.json")
        value: dict[str, Any] = json.loads(path.read_text())
        return value

    def pixels(self, start: str) -> "np.ndarray[Any, Any]":
        """All pictures of the video whose name begins so, [F, H, W, 3]."""
        (path,) = self.folder.glob(f"{start}*.mp4")
        with av.open(str(path)) as container:
            return np.stack([picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("wan", tmp_path_factory.mktemp("model") / "wan")


def start(script: Path, model: Path, folder: Path, prompts: list[dict[str, Any]], *flags: str) -> Run:
    folder.mkdir(exist_ok=True)
    file, log = (folder.parent / f"{next(COUNTER)}{suffix}" for suffix in (".jsonl", ".log"))
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    argv = [
        "--model",
        model,
        "--prompts-file",
        file,
        "--height",
        "64",
        "--width",
        "64",
        "--steps",
        "3",
        "--fps",
        "12.5",
    ]
    argv += [
        "--guidance",
        "4",
        "--eager",
        "--engine-args",
        json.dumps({"dtype": DTYPE}),
        "--output-dir",
        folder,
        *flags,
    ]
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("LVSA_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, script, *map(str, argv)],
            env={**environ, "LVSA_CPU": "1", "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Run(process, folder, log)


@pytest.fixture(scope="module")
def baseline_started(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("runs") / "dense"
    run = start(MORTAL, model, folder, [LONG, SHORT], "--backend", "dense", "--evaluate")
    yield run
    run.process.kill()


@pytest.fixture(scope="module")
def interrupted(baseline_started: Run, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = start(SCRIPT, model, tmp_path_factory.mktemp("runs") / "lvsa", [LONG, TALL, SLOW])
    until = time.monotonic() + 180
    while "failed: 002" not in run.text and run.process.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(0.5)
    run.process.send_signal(signal.SIGINT)
    return run.end()


@pytest.fixture(scope="module")
def resumed(interrupted: Run, model: Path) -> Run:
    return start(SCRIPT, model, interrupted.folder, [LONG, TALL, SHORT, OWN]).end()


@pytest.fixture(scope="module")
def baseline(baseline_started: Run) -> Run:
    return baseline_started.end()


def test_an_interrupted_batch_keeps_what_is_finished_and_no_half_file(interrupted: Run) -> None:
    assert interrupted.status == 130, interrupted.text[-2000:]
    assert {re.sub(r"-[0-9a-f]{8}\.", ".", name) for name in interrupted.files} == {
        "001-a-cat-on-a-mat.mp4",
        "001-a-cat-on-a-mat.json",
    }
    assert "interrupted: closing the engine" in interrupted.text
    assert "1 of 3 videos are finished; run the same command again" in interrupted.text


def test_lvsa_runs_beyond_the_training_length(interrupted: Run) -> None:
    assert re.search(r"\[LVSA\] .*total_lat_frames=25 .*kfi=2 ", interrupted.text)


def test_a_resumed_batch_skips_what_is_finished(interrupted: Run, resumed: Run) -> None:
    assert "4 videos in" in resumed.text and ", 1 of them finished already" in resumed.text
    (first,) = resumed.folder.glob("001*.mp4")
    assert first.stat().st_mtime < resumed.log.stat().st_ctime
    assert interrupted.files < resumed.files
    assert not [name for name in resumed.files if name.startswith(".")]
    assert "001-a-cat" not in resumed.text


def test_a_failing_prompt_is_reported_at_the_end_and_the_others_are_made(resumed: Run) -> None:
    assert resumed.status == 1, resumed.text[-2000:]
    assert sorted(name[:4] for name in resumed.files) == [f"00{number}-" for number in (1, 1, 3, 3, 4, 4)]
    *_, failed, total = [line for line in resumed.text.splitlines() if "failed: 002" in line or "of 4 videos" in line]
    assert re.match(r"failed: 002-too-tall-[0-9a-f]{8}: a video of 2050 latent rows .* cannot be made", failed)
    assert total == "3 of 4 videos are finished"


@pytest.mark.parametrize(("start", "frames", "height", "width"), [("001", 97, 64, 64), ("003", 9, 48, 80)])
def test_the_mp4_is_what_was_asked_for(resumed: Run, start: str, frames: int, height: int, width: int) -> None:
    (path,) = resumed.folder.glob(f"{start}*.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.height, stream.width) == (frames, height, width)
        assert stream.average_rate == 12.5
    pixels = resumed.pixels(start)
    assert pixels.shape == (frames, height, width, 3)
    assert pixels.std() > 1


def test_the_record_says_what_made_the_video(resumed: Run) -> None:
    record = resumed.record("001")
    settings = record["settings"]
    asked = {"prompt": LONG["prompt"], "seed": 42, "frames": 97, "height": 64, "width": 64, "steps": 3, "fps": 12.5}
    assert {name: settings[name] for name in asked} == asked
    assert (settings["family"], settings["backend"], settings["lvsa"]) == ("wan", "auto", {})
    assert settings["engine"] == {"dtype": "float32"}
    assert record["video"]["frames"] == 97 and record["video"]["seconds"] == 7.76
    assert record["pattern"]["latent_frames"] == 25 and record["pattern"]["keyframe_interval"] == 2
    assert record["pattern"]["anchors_at_step_0"] == list(range(0, 25, 2))
    assert all(record["timings_s"][name] > 0 for name in ("engine_start", "generation", "encode"))
    assert record["peak_memory_mib"] > 100
    assert record["ran"] == {"sparse": True, "fallbacks": {}}
    assert resumed.record("003")["ran"] == {"sparse": False, "fallbacks": {}}  # within the training length
    assert record["versions"]["vllm-omni"] and record["versions"]["lvsa-vllm-omni"]
    assert record["run"] == {"offload": "none", "eager": True}
    assert resumed.record("003")["settings"]["seed"] == 7


def test_a_prompt_brings_knobs_of_its_own(resumed: Run) -> None:
    record = resumed.record("004")
    assert record["settings"]["request"] == OWN["lvsa"] and "request" not in resumed.record("001")["settings"]
    assert record["pattern"]["attended_per_frame"] == 10
    assert re.search(r"\[LVSA\] .*total_lat_frames=25 .*attended_per_frame=10/25", resumed.text)


def test_a_finished_batch_needs_no_engine(resumed: Run, model: Path) -> None:
    begin = time.monotonic()
    again = start(SCRIPT, model, resumed.folder, [LONG]).end()
    assert again.status == 0, again.text
    assert "starting the engine" not in again.text
    assert again.files == resumed.files
    assert time.monotonic() - begin < 60


def test_the_baseline_runs_without_lvsa(baseline: Run, resumed: Run) -> None:
    assert baseline.status == 0, baseline.text[-2000:]
    assert "[LVSA" not in baseline.text
    assert baseline.record("001")["pattern"] is baseline.record("001")["ran"] is None
    assert baseline.record("001")["settings"]["backend"] == "dense"
    assert not np.array_equal(baseline.pixels("001"), resumed.pixels("001"))


def test_each_video_is_evaluated(baseline: Run, resumed: Run) -> None:
    for start in ("001", "002"):
        found = baseline.record(start)["vqeval"]
        (path,) = baseline.folder.glob(f"{start}*.mp4")
        assert found["video"]["path"] == path.name and found["video"]["sha256"] == digest(path)
        assert found["dimensions"]["freeze"]["value"] is not None
    assert "vqeval" not in resumed.record("001"), "it was not asked for"


def test_within_the_training_length_lvsa_is_the_baseline(baseline: Run, resumed: Run) -> None:
    np.testing.assert_array_equal(baseline.pixels("002"), resumed.pixels("003"))


def test_an_engine_that_died_starts_again_for_the_next_prompt(baseline: Run) -> None:
    first, second = (baseline.record(start)["timings_s"]["engine_start"] for start in ("001", "002"))
    assert first != second
    assert "2 of 2 videos are finished" in baseline.text

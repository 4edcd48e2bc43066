"""`evaluate`: names and types of what it returns, equal results of equal files, time and memory, what it imports."""

import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import vqeval
from tests.support.clips import Measure
from vqeval import Result, VideoError, evaluate
from vqeval.checks import edits, scenes
from vqeval.checks.clip import Clip, write

DIMENSIONS = ["freeze", "loop", "mirror", "return", "motion", "flicker", "drift", "blur", "noise"]


def test_the_public_names() -> None:
    assert sorted(vqeval.__all__) == [
        "Comparison", "Dimension", "InputError", "Result", "VideoError", "VqevalError", "WeightsError", "compare",
        "evaluate",
    ]  # fmt: skip


def test_imports_neither_torch_nor_the_engine_nor_the_rest() -> None:
    """Not even when videos are judged and pages are drawn."""
    program = """
import sys
import vqeval.cli.main, vqeval.page, vqeval.writing, vqeval.checks.selfcheck
heavy = {"torch", "transformers", "torchvision", "vllm", "vllm_omni", "lvsa_core", "lvsa_vllm_omni", "pyiqa"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}, sorted(heavy & set(sys.modules))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_real_video(clips: dict[str, Clip], measure: Measure) -> None:
    found = measure(clips["bikes"])
    assert list(found.dimensions) == DIMENSIONS
    assert found.composite is not None and found.composite > 80
    assert list(found.composite_of) == ["freeze", "loop", "mirror", "flicker", "drift", "blur", "noise"]
    product = math.prod(found.dimensions[name].score or 0 for name in found.composite_of)
    assert found.composite == pytest.approx(product ** (1 / len(found.composite_of)))
    motion = found.dimensions["motion"]
    assert motion.value is not None and motion.score is None and "--reference" in str(motion.reason)
    assert found.alarms == [] and found.asked == {}


def test_the_json_has_the_same_names(measure: Measure) -> None:
    found = measure(edits.looped(scenes.pan(), 30))
    data = json.loads(found.model_dump_json())
    assert list(data["dimensions"]) == DIMENSIONS
    loop = data["dimensions"]["loop"]
    assert loop["lag_seconds"] == pytest.approx(30 / 16) and 0.5 < loop["value"] < 1
    assert loop["score"] == pytest.approx(100 * (1 - loop["value"]) ** 4) and loop["reason"] is None
    assert Result.model_validate_json(found.model_dump_json()) == found
    assert data["alarms"] == [f"is a loop: {100 * loop['value']:.0f} % of the frames repeat those 1.88 s earlier"]


def test_motion_counts_against_a_reference(measure: Measure) -> None:
    clip = scenes.pan()
    found = measure(edits.slowed(clip), reference=clip)
    motion = found.dimensions["motion"]
    assert motion.score == pytest.approx(50, abs=10) and motion.details["ratio"] == pytest.approx(0.5, abs=0.1)
    assert "motion" in found.composite_of
    assert list(found.asked) == ["reference"], "results with and without a reference cannot be compared"


def test_a_reference_that_does_not_move(measure: Measure) -> None:
    clip = scenes.pan(48)
    motion = measure(clip, reference=edits.frozen(clip)).dimensions["motion"]
    assert motion.score is None and motion.reason == "the reference does not move"


def test_a_reference_that_cannot_be_judged(tmp_path: Path) -> None:
    path = write(scenes.pan(32), tmp_path / "clip.mp4")
    with pytest.raises(VideoError, match=r"none\.mp4: there is no such file"):
        evaluate(path, reference=tmp_path / "none.mp4")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_file_gives_the_same_result(threads: int, tmp_path: Path) -> None:
    path = write(edits.noisy(edits.looped(scenes.hand_held(), 29.5)), tmp_path / "clip.mp4")
    first = evaluate(path).model_dump_json()
    program = f"""
import cv2, vqeval
cv2.setNumThreads({threads})
print(vqeval.evaluate({str(path)!r}).model_dump_json())
"""
    environment = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    ran = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": "", **environment}, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == first
    assert cv2.getNumThreads() >= 1


def test_where_arrays_lie_in_memory_does_not_matter(tmp_path: Path) -> None:
    """Some functions of OpenCV compute other last digits in another place."""
    path = write(scenes.hand_held(24), tmp_path / "clip.mp4")
    found, kept = set(), []
    for number in range(6):
        found.add(evaluate(path).model_dump_json())
        kept.append(np.empty(1000 + 777 * number, np.uint8))
    assert len(found) == 1


def test_too_little_motion_is_a_result_and_not_a_number(measure: Measure) -> None:
    found = measure(edits.frozen(scenes.pan(64)))
    assert found.dimensions["freeze"].value == 1.0
    for name in ("loop", "mirror", "return"):
        assert found.dimensions[name].value is None and found.dimensions[name].score is None
        assert str(found.dimensions[name].reason).startswith("too little motion to judge")
    assert found.composite == 0 and found.alarms == ["stands still for 100 % of its length"]


def test_weights_and_profile(tmp_path: Path) -> None:
    path = write(scenes.pan(48), tmp_path / "clip.mp4")
    found = evaluate(path, weights={"blur": 2})
    assert found.composite == pytest.approx(found.dimensions["blur"].score) and found.composite_of == {"blur": 2}
    paper = evaluate(path, profile="paper")
    assert sum(paper.composite_of.values()) == pytest.approx(1) and paper.dimensions == found.dimensions


@pytest.mark.slow
def test_time_and_memory_of_a_long_video(tmp_path: Path) -> None:
    """321 frames of 832 x 480, in a process of its own, by the time of its processors."""
    clip = scenes.pan(321)
    frames = np.stack([cv2.resize(frame, (832, 480), interpolation=cv2.INTER_CUBIC) for frame in clip.frames])
    path = write(Clip(frames, 16), tmp_path / "long.mp4", options={"crf": "18", "preset": "ultrafast"})
    # Its own peak: what the system tells of ended processes begins with the size of the one that started them.
    program = f"""if True:
        import re, vqeval
        vqeval.evaluate({str(path)!r})
        print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", program], check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert computed < 40, f"{computed:.1f} s of two cores for 20 s each; it took {wall:.1f} s"
    assert int(run.stdout) < 1024 * 1024, "kilobytes: at most 1 GiB"

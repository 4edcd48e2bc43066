"""The batch example on the other families, which it detects from the checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch

from lvsa_vllm_omni.cpu.checkpoint import write_checkpoint

SCRIPT = Path(__file__).parents[2] / "examples" / "offline_lvsa.py"
DTYPE = "bfloat16" if torch.accelerator.is_available() else "float32"

pytestmark = pytest.mark.engine

#: Kind, video frames past the training length, engine arguments, the keyframe interval.
RUNS = [
    ("hunyuan", 145, {}, 2),
    ("cosmos3", 201, {"model_config": {"guardrails": False}}, 2),
]


@pytest.mark.parametrize(("kind", "frames", "engine", "interval"), RUNS, ids=[run[0] for run in RUNS])
def test_a_long_video(kind: str, frames: int, engine: dict[str, object], interval: int, tmp_path: Path) -> None:
    model, folder = write_checkpoint(kind, tmp_path / "model"), tmp_path / "videos"
    arguments = ["--model", model, "--prompt", "a fox", "--num-frames", frames, "--height", 64, "--width", 64]
    arguments += [
        "--steps",
        2,
        "--eager",
        "--output-dir",
        folder,
        "--engine-args",
        json.dumps({**engine, "dtype": DTYPE}),
    ]
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("LVSA_")}
    run = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env={**environ, "LVSA_CPU": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"[LVSA] installed on 2 blocks num_patches={16 if kind == 'hunyuan' else 4} total_lat_frames=" in run.stdout
    (file,) = folder.glob("*.json")
    record = json.loads(file.read_text())
    assert record["settings"]["family"] == kind
    assert record["pattern"]["keyframe_interval"] == interval
    with av.open(folder / record["video"]["file"]) as video:
        assert sum(1 for _ in video.decode(video=0)) == frames == record["video"]["frames"]

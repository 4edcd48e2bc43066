"""The batch example on other checkpoints: families, which it detects, and what they make their videos from."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

SCRIPT = Path(__file__).parents[2] / "examples" / "offline_lvsa.py"
SEVERAL = Path(__file__).with_name("several_batches.py")
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
    assert record["ran"] == {"sparse": True, "fallbacks": {}}
    with av.open(folder / record["video"]["file"]) as video:
        assert sum(1 for _ in video.decode(video=0)) == frames == record["video"]["frames"]


STEPS = 2
#: Kind -> preset, video frames of one latent frame more than the training length, prompts.
BATCHES: dict[str, tuple[str, int, list[dict[str, Any]]]] = {
    "wan-ti2v": ("wan2.2-ti2v-5b", 125, [{"prompt": "a fox"}, {"prompt": "a fox", "image": "fox.png"}]),
    "wan-a14b": ("wan", 85, [{"prompt": "a fox"}]),
    "wan-i2v": ("wan", 85, [{"prompt": "a fox", "image": "fox.png"}, {"prompt": "surprise", "image": "fox.png"}]),
    "hunyuan-i2v": ("hunyuan-video-1.5", 133, [{"prompt": "a fox", "image": "fox.png"}]),
}


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with those batches, each with the name of its kind, and the image; one process makes them all."""
    folder = tmp_path_factory.mktemp("batches")
    squares = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(squares).resize((64, 64), Image.Resampling.NEAREST).save(folder / "fox.png")
    lines = []
    for kind, (_, frames, prompts) in BATCHES.items():
        model, file = write_checkpoint(kind, folder / "models" / kind), folder / f"{kind}.jsonl"
        file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
        lines.append(["--model", model, "--prompts-file", file, "--output-dir", folder / kind, "--num-frames", frames])
        lines[-1] += ["--height", 32, "--width", 64, "--steps", STEPS, "--eager", "--guidance", 4]
        lines[-1] += ["--engine-args", json.dumps({"dtype": DTYPE})]
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("LVSA_")}
    run = subprocess.run(
        [sys.executable, SEVERAL, json.dumps([list(map(str, line)) for line in lines])],
        env={**environ, "LVSA_CPU": "1", "LVSA_ENABLE": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def pixels(batches: Path, kind: str, number: int) -> np.ndarray:
    """All pictures of a video, [F, H, W, 3]."""
    (path,) = (batches / kind).glob(f"{number:03d}-*.mp4")
    with av.open(str(path)) as video:
        return np.stack([picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)])


@pytest.mark.parametrize("kind", BATCHES)
def test_checkpoints_with_images_and_with_two_transformers(batches: Path, kind: str) -> None:
    preset, frames, prompts = BATCHES[kind]
    image = hashlib.sha256((batches / "fox.png").read_bytes()).hexdigest()
    records = [json.loads(path.read_text()) for path in sorted((batches / kind).glob("*.json"))]
    assert len(records) == len(prompts)
    for number, (record, prompt) in enumerate(zip(records, prompts, strict=True), start=1):
        assert record["settings"]["preset"] == preset
        assert record["settings"].get("images") == ([image] if "image" in prompt else None)
        assert record["image_files"] == ([str(batches / "fox.png")] if "image" in prompt else [])
        assert record["pattern"]["latent_frames"] == (frames - 1) // 4 + 1 and record["pattern"]["density"] < 1
        assert pixels(batches, kind, number).shape == (frames, 32, 64, 3)
        fallbacks = {"sequence-length": STEPS * 2 * 2} if prompt["prompt"] == "surprise" else {}  # branches, blocks
        assert record["ran"] == {"sparse": True, "fallbacks": fallbacks}


def test_an_image_that_is_not_needed_changes_the_video(batches: Path) -> None:
    without, behind = (pixels(batches, "wan-ti2v", number).astype(float) for number in (1, 2))
    assert np.abs(without - behind).mean() > 255 * 0.01

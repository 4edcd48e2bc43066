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

STEPS = 2
#: Kind -> preset, video frames past the training length with a keyframe interval of 2, prompts.
BATCHES: dict[str, tuple[str, int, list[dict[str, Any]]]] = {
    "wan-ti2v": ("wan2.2-ti2v-5b", 125, [{"prompt": "a fox"}, {"prompt": "a fox", "image": "fox.png"}]),
    "wan-a14b": ("wan", 85, [{"prompt": "a fox"}]),
    "wan-i2v": ("wan", 85, [{"prompt": "a fox", "image": "fox.png"}, {"prompt": "surprise", "image": "fox.png"}]),
    "hunyuan-i2v": ("hunyuan-video-1.5", 133, [{"prompt": "a fox", "image": "fox.png"}]),
    "hunyuan": ("hunyuan-video-1.5", 145, [{"prompt": "a fox"}]),
    "cosmos3": ("cosmos3", 201, [{"prompt": "a fox"}]),
}
ENGINE: dict[str, dict[str, Any]] = {"cosmos3": {"model_config": {"guardrails": False}}}


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
        lines[-1] += ["--engine-args", json.dumps({"dtype": DTYPE, **ENGINE.get(kind, {})})]
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
        assert record["settings"]["preset"] == preset and record["settings"]["family"] == kind.split("-")[0]
        assert record["settings"].get("images") == ([image] if "image" in prompt else None)
        assert record["image_files"] == ([str(batches / "fox.png")] if "image" in prompt else [])
        assert record["pattern"]["latent_frames"] == (frames - 1) // 4 + 1 and record["pattern"]["density"] < 1
        assert record["pattern"]["keyframe_interval"] == 2
        assert pixels(batches, kind, number).shape == (frames, 32, 64, 3)
        fallbacks = {"sequence-length": STEPS * 2 * 2} if prompt["prompt"] == "surprise" else {}  # branches, blocks
        assert record["ran"] == {"sparse": True, "fallbacks": fallbacks}


def test_an_image_that_is_not_needed_changes_the_video(batches: Path) -> None:
    without, behind = (pixels(batches, "wan-ti2v", number).astype(float) for number in (1, 2))
    assert np.abs(without - behind).mean() > 255 * 0.01

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

from lvsa_core import keyframe_interval
from lvsa_core.facts import shipped
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

SCRIPT = Path(__file__).parents[2] / "examples" / "offline_lvsa.py"
SEVERAL = Path(__file__).with_name("several_batches.py")
DTYPE = "bfloat16" if torch.accelerator.is_available() else "float32"

pytestmark = pytest.mark.engine

STEPS = 2
#: Kind -> preset, video frames past the training length, prompts.
BATCHES: dict[str, tuple[str, int, list[dict[str, Any]]]] = {
    "hunyuan": ("hunyuan-video-1.5", 145, [{"prompt": "a fox"}]),
    "cosmos3": ("cosmos3", 201, [{"prompt": "a fox"}]),
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
        more = {"model_config": {"guardrails": False}} if kind == "cosmos3" else {}
        lines[-1] += ["--engine-args", json.dumps({**more, "dtype": DTYPE})]
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("LVSA_")}
    run = subprocess.run(
        [sys.executable, SEVERAL, json.dumps([list(map(str, line)) for line in lines])],
        env={**environ, "LVSA_CPU": "1", "LVSA_ENABLE": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (folder / "output").write_text(run.stdout)
    return folder


def pixels(batches: Path, kind: str, number: int) -> np.ndarray:
    """All pictures of a video, [F, H, W, 3]."""
    (path,) = (batches / kind).glob(f"{number:03d}-*.mp4")
    with av.open(str(path)) as video:
        return np.stack([picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)])


@pytest.mark.parametrize("kind", BATCHES)
def test_long_videos(batches: Path, kind: str) -> None:
    """Of every kind of checkpoint: those with images, with two transformers, and of another family."""
    preset, frames, prompts = BATCHES[kind]
    image = hashlib.sha256((batches / "fox.png").read_bytes()).hexdigest()
    records = [json.loads(path.read_text()) for path in sorted((batches / kind).glob("*.json"))]
    assert len(records) == len(prompts)
    for number, (record, prompt) in enumerate(zip(records, prompts, strict=True), start=1):
        assert (record["settings"]["preset"], record["settings"]["family"]) == (preset, kind.partition("-")[0])
        assert record["settings"].get("images") == ([image] if "image" in prompt else None)
        assert record["image_files"] == ([str(batches / "fox.png")] if "image" in prompt else [])
        pattern, latent_frames = record["pattern"], (frames - 1) // 4 + 1
        assert pattern["latent_frames"] == latent_frames and pattern["density"] < 1
        reference = shipped()[preset]["reference_latent_frames"]
        assert pattern["keyframe_interval"] == keyframe_interval(latent_frames, reference_frames=reference)
        assert pixels(batches, kind, number).shape == (frames, 32, 64, 3)
        fallbacks = {"sequence-length": STEPS * 2 * 2} if prompt["prompt"] == "surprise" else {}  # branches, blocks
        assert record["ran"] == {"sparse": True, "fallbacks": fallbacks}


def test_the_log_of_other_families(batches: Path) -> None:
    """Tokens of HunyuanVideo stand for 16 x 16 pixels, those of Cosmos 3 for 32 x 32."""
    output = (batches / "output").read_text()
    for tokens, latent_frames in ((8, 37), (2, 51)):
        assert f"[LVSA] installed on 2 blocks num_patches={tokens} total_lat_frames={latent_frames} " in output


def test_an_image_that_is_not_needed_changes_the_video(batches: Path) -> None:
    without, behind = (pixels(batches, "wan-ti2v", number).astype(float) for number in (1, 2))
    assert np.abs(without - behind).mean() > 255 * 0.01

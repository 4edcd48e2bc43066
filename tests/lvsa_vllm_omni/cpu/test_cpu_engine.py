"""The engine itself on the CPU platform, without LVSA: one worker, two over gloo, and half precision."""

import multiprocessing
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("vllm_omni") is None, reason="needs vLLM-Omni"),
    pytest.mark.skipif(torch.accelerator.is_available(), reason="the CPU platform stays away from an accelerator"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("wan", tmp_path_factory.mktemp("checkpoint") / "wan")


def generate(omni: Any) -> Any:
    """One request of 17 frames; the result as the engine gives it."""
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams

    parameters = OmniDiffusionSamplingParams(
        height=64, width=64, num_frames=17, num_inference_steps=4, seed=42, guidance_scale=4.0
    )
    return omni.generate({"prompt": "a cat on a mat", "negative_prompt": "bad"}, parameters, use_tqdm=False)[0]


def frames(result: Any) -> np.ndarray:
    """Frames [F, H, W, 3] in 0..1."""
    return np.asarray(result.images[0])[0]


@pytest.fixture(scope="module")
def alone(checkpoint: Path, running: Callable[..., Any]) -> np.ndarray:
    """The video of one eager worker, twice the same, with the memory that it took."""
    with running(checkpoint) as omni:
        first, second = generate(omni), generate(omni)
    assert np.array_equal(frames(first), frames(second))
    assert 200 < second.peak_memory_mb < 20_000
    return frames(first)


def test_the_video_is_a_video(alone: np.ndarray) -> None:
    assert alone.shape == (17, 64, 64, 3)
    assert 0.1 < alone.std() < 0.3


@pytest.mark.multiproc
def test_two_workers_make_the_same_video(checkpoint: Path, alone: np.ndarray, running: Callable[..., Any]) -> None:
    with running(checkpoint, ring_degree=2) as omni:
        workers = [child for child in multiprocessing.active_children() if child.name.startswith("DiffusionWorker")]
        assert len(workers) == 2
        together = generate(omni)
    assert np.abs(frames(together) - alone).max() < 1e-5
    assert together.peak_memory_mb > 200


def test_bfloat16(checkpoint: Path, alone: np.ndarray, running: Callable[..., Any]) -> None:
    with running(checkpoint, dtype="bfloat16") as omni:
        video = frames(generate(omni))
    assert np.isfinite(video).all()
    assert np.abs(video - alone).mean() < 0.02

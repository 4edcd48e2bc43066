"""Two workers make the video of one, with the same pattern."""

import multiprocessing
from typing import Any

import numpy as np
import pytest
import torch

#: 41 latent frames of 15 patches: an odd number of tokens, which sequence parallelism pads.
FRAMES, SIZE = 161, (48, 80)

pytestmark = [
    pytest.mark.multiproc,
    pytest.mark.skipif(
        torch.accelerator.is_available() and torch.accelerator.device_count() < 2, reason="needs two accelerators"
    ),
]


@pytest.fixture(scope="module")
def alone(starting: Any) -> np.ndarray:
    with starting({"LVSA_WAN_HOOK": "1"}) as engine:
        return engine.video(FRAMES, size=SIZE)


@pytest.mark.parametrize("placement", ["tensor_parallel_size", "cfg_parallel_size", "ulysses_degree"])
def test_two_workers(starting: Any, alone: np.ndarray, placement: str, capfd: pytest.CaptureFixture[str]) -> None:
    with starting({"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1"}, **{placement: 2}) as engine:
        workers = [child for child in multiprocessing.active_children() if child.name.startswith("DiffusionWorker")]
        assert len(workers) == 2
        video = engine.video(FRAMES, size=SIZE)
    assert np.abs(video - alone).max() < 1e-4
    log = "".join(capfd.readouterr())
    pattern = (
        "[LVSA] total_lat_frames=41 window=3 n_first=1 kfi=3 global_count=14 attended_per_frame=21/41 density=51.2%"
    )
    assert log.count(pattern) == 2, "each worker says its pattern once"

"""Two workers of a whole engine make the video of one; every placement is in tests/parallel, with the workers alone."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

FRAMES, SHORT = 161, 33  # 41 and 9 latent frames

pytestmark = [
    pytest.mark.multiproc,
    pytest.mark.skipif(
        torch.accelerator.is_available() and torch.accelerator.device_count() < 2, reason="needs two accelerators"
    ),
]


@pytest.fixture(scope="module")
def alone(starting: Any) -> tuple[np.ndarray, np.ndarray]:
    """One worker's long and short video."""
    with starting({"LVSA_WAN_HOOK": "1"}) as engine:
        return engine.video(FRAMES), engine.video(SHORT)


def workers() -> list[Any]:
    return [child for child in multiprocessing.active_children() if child.name.startswith("DiffusionWorker")]


def test_ulysses(starting: Any, alone: tuple[np.ndarray, np.ndarray], capfd: pytest.CaptureFixture[str]) -> None:
    with starting({"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1"}, ulysses_degree=2) as engine:
        assert len(workers()) == 2
        video = engine.video(FRAMES)
    assert np.abs(video - alone[0]).max() < 1e-4
    log = "".join(capfd.readouterr())
    pattern = (
        "[LVSA] total_lat_frames=41 window=3 n_first=1 kfi=3 global_count=14 attended_per_frame=21/41 density=51.2%"
    )
    assert log.count(pattern) == 2, "each worker says its pattern once"


def test_ring_and_a_worker_that_dies(
    starting: Any, alone: tuple[np.ndarray, np.ndarray], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The exchange is an error then, as a collective of the engine is, and so is the next request: nothing hangs."""
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}  # workers are processes of their own: so are their metrics
    with starting({"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1", **shared}, ring_degree=2) as engine:
        assert len(workers()) == 2
        assert np.abs(engine.video(FRAMES) - alone[0]).max() < 1e-4
        assert np.abs(engine.video(SHORT) - alone[1]).max() < 1e-5  # by the engine's own ring
        log = "".join(capfd.readouterr())
        assert log.count("[LVSA] placement Ring 2: sparse, each rank holds its rows") == 2
        assert log.count("[LVSA] total_lat_frames=41 window=3") == 2, "each worker says its pattern once"
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(tmp_path))
        (requests,) = [family for family in registry.collect() if family.name == "lvsa_requests"]
        assert [sample.value for sample in requests.samples if sample.labels["outcome"] == "sparse"] == [1]

        failures: list[BaseException] = []

        def request() -> None:
            try:
                engine.video(FRAMES, size=(128, 128), steps=50)
            except Exception as error:
                failures.append(error)

        running = threading.Thread(target=request)
        running.start()
        deadline = time.monotonic() + 120
        while "num_patches=64" not in "".join(capfd.readouterr()):  # the request is in its exchanges
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(workers()[1].pid, signal.SIGKILL)
        running.join(timeout=120)
        assert not running.is_alive() and failures
        request()
        assert len(failures) == 2

"""Replicas of a model in several runtimes, as on several machines: a head, which has one too, and headless ones."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.support.capabilities import finds_stages_of
from tests.support.engine import start
from tests.support.free_port import free_port
from tests.support.server import REQUEST, Server, frames, launch, wait

pytestmark = [
    pytest.mark.multiproc,
    # Every runtime takes the first device, and needs it whole: on real machines each has its own.
    pytest.mark.skipif(torch.accelerator.is_available(), reason="two runtimes on one machine run on the CPU"),
]

ON = {"LVSA_WAN_HOOK": "1"}


@dataclass
class Runtimes:
    """What one command each has started."""

    head: Server  #: answers HTTP, and holds the first replica
    headless: Server  #: holds the second replica


@contextmanager
def serving(checkpoint: Path, log: Path, *options: str, **settings: str) -> Iterator[Server]:
    """One runtime with these LVSA_* settings and no others, ended with all that it started."""
    server = launch(checkpoint, log, "--enforce-eager", *options, **settings)
    process = server.process
    try:
        yield server
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(5)  # not more: vLLM-Omni 0.30's head, once it has had a headless replica, stays
        process.kill()
        process.wait()
        time.sleep(1)  # multiprocessing's own process removes what the others shared
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def runtimes(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtimes]:
    """Both runtimes, started at once: each spends most of its start importing."""
    if not finds_stages_of(checkpoint):
        pytest.skip("this engine starts a replica elsewhere only with a file that tells its stages")
    logs = tmp_path_factory.mktemp("replicas")
    stage = ("--stage-id", "0", "--omni-master-address", "127.0.0.1", "--omni-master-port", str(free_port()))
    with (
        # Same kernel under another name, which shows whose settings a runtime reads.
        serving(checkpoint, logs / "headless", "--headless", *stage, **ON, LVSA_BACKEND="sdpa") as headless,
        serving(checkpoint, logs / "head", "--omni-lb-policy", "round-robin", *stage, **ON) as head,
    ):
        started = Runtimes(head, headless)
        wait(head.healthy, head, headless)
        wait(lambda: bool(head.lines("attached remote replica stage=0 replica=1")), head, headless)
        yield started


@pytest.fixture(scope="module")
def sparse(checkpoint: Path) -> bytes:
    """The video of an engine without replicas, written as its server writes one."""
    from vllm_omni.entrypoints.openai.video_api_utils import _encode_video_bytes

    with start(checkpoint, ON) as engine:
        made = engine.video(97, steps=REQUEST["num_inference_steps"], seed=REQUEST["seed"])
    return _encode_video_bytes(made, fps=16, video_codec_options={"preset": "ultrafast", "threads": "0"})


def video(server: Server) -> bytes:
    """The mp4 of one long request with a seed."""
    status, body = server.post(**REQUEST, num_frames=97, fps=16, guidance_scale=4.0)
    assert status == 200, body[:500]
    return body


def workers(server: Server, start: str) -> list[str]:
    """Process ids of the log lines with ``start``; vLLM-Omni 0.26 does not print all: then the log's name."""
    lines = [line for line in server.log.read_text().splitlines() if start in line]
    return [(re.findall(r"pid=(\d+)\)", line) or [server.log.name])[-1] for line in lines]


def test_every_replica_makes_the_video_of_one_engine(runtimes: Runtimes, sparse: bytes) -> None:
    replicas = (runtimes.head, runtimes.headless)
    assert frames(sparse) == (97, 64, 64)

    # Two requests would do, but a message that the second replica is ready may reach the head after the first of them.
    installed, answers = "[LVSA] installed on 2 blocks num_patches=16 total_lat_frames=25", 0
    while answers < 2 or (answers < 6 and not all(replica.lines(installed) for replica in replicas)):
        assert video(runtimes.head) == sparse
        answers += 1
    assert all(replica.lines(installed) for replica in replicas)
    assert sum(len(replica.lines(installed)) for replica in replicas) == answers

    hooked = [workers(replica, "[LVSA] hooked WanTransformer3DModel") for replica in replicas]
    assert [len(processes) for processes in hooked] == [1, 1]
    assert hooked[0] != hooked[1]
    assert [sorted({*workers(replica, installed)}) for replica in replicas] == hooked
    assert not any(replica.lines("[LVSA-FALLBACK]") for replica in replicas)


def test_every_runtime_reads_its_own_settings(runtimes: Runtimes) -> None:
    said = "[LVSA] enabled for wan: backend="
    assert {line.split()[4] for line in runtimes.head.lines(said)} == {"backend=auto"}
    assert {line.split()[4] for line in runtimes.headless.lines(said)} == {"backend=sdpa"}

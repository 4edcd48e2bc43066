"""The real HTTP server, as a user starts it."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest
from free_port import free_port

START_UP_SECONDS = 300


@dataclass
class Server:
    """A running ``vllm serve`` and its log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def lines(self, start: str) -> list[str]:
        """Log lines from ``start`` on."""
        return [line[line.index(start) :] for line in self.log.read_text().splitlines() if start in line]

    def post(self, **fields: Any) -> tuple[int, bytes]:
        """Status and body of POST /v1/videos/sync with multipart form fields."""
        boundary = uuid.uuid4().hex
        parts = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/videos/sync",
            data=f"{parts}--{boundary}--\r\n".encode(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=240) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def healthy(self) -> bool:
        """Whether GET /health answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False


def serve(checkpoint: Path, log: Path, **settings: str) -> Server:
    """Start the server on a free port."""
    port = free_port()
    vllm = Path(sys.executable).with_name("vllm")
    command = [str(vllm), "serve", str(checkpoint), "--omni", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "LVSA_CPU": "1", "MASTER_PORT": str(free_port()), **settings}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    return Server(process, port, log)


def stop(server: Server) -> None:
    """End the server and what it started."""
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGTERM)
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def misspelt(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a misspelt setting, started beside the good one: each spends most of its start importing."""
    running = serve(checkpoint, tmp_path_factory.mktemp("misspelt") / "log", LVSA_WAN_HOK="1")
    yield running
    stop(running)


@pytest.fixture(scope="module")
def server(checkpoint: Path, misspelt: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = serve(checkpoint, tmp_path_factory.mktemp("server") / "log", LVSA_WAN_HOOK="1")
    try:
        deadline = time.monotonic() + START_UP_SECONDS
        while not running.healthy():
            assert running.process.poll() is None, running.log.read_text()[-4000:]
            assert time.monotonic() < deadline, running.log.read_text()[-4000:]
            time.sleep(1)
        yield running
    finally:
        stop(running)


REQUEST = {"prompt": "a cat on a mat", "negative_prompt": "bad", "size": "64x64", "num_inference_steps": 2, "seed": 1}


def frames(mp4: bytes) -> tuple[int, int, int]:
    """Number, height and width of a video's frames."""
    with av.open(io.BytesIO(mp4)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return len(decoded), *decoded[0].shape[:2]


def test_a_long_video_then_another_then_an_impossible_one(server: Server) -> None:
    status, body = server.post(**REQUEST, num_frames=97, fps=16)
    assert status == 200, body[:500]
    assert frames(body) == (97, 64, 64)
    assert server.lines("[LVSA] total_lat_frames=25 window=3 n_first=1 kfi=2 global_count=13 attended_per_frame=20/25")

    status, body = server.post(**{**REQUEST, "size": "96x64"}, num_frames=125, fps=16)
    assert status == 200, body[:500]
    assert frames(body) == (125, 64, 96)
    assert server.lines("[LVSA] installed on 2 blocks num_patches=24 total_lat_frames=32")

    sizes = ({"size": "8x8"}, {"size": "64x17000"}, {"size": "abc"}, {"size": "", "width": "0", "height": "64"})
    for impossible in (*sizes, {"num_frames": 5001}):
        status, body = server.post(**{**REQUEST, "num_frames": 97, **impossible})
        assert 400 <= status < 500, (impossible, status, body[:500])
        assert json.loads(body)["error"]["message"]

    status, body = server.post(**REQUEST, num_frames=97, fps=16)
    assert status == 200, body[:500]
    assert frames(body) == (97, 64, 64)
    assert len(server.lines("[LVSA] total_lat_frames=25 ")) == 2
    assert not server.lines("[LVSA-FALLBACK]")


def test_a_wrong_setting_stops_the_server_with_one_sentence(misspelt: Server) -> None:
    assert misspelt.process.wait(START_UP_SECONDS) == 1
    sentence = "error: LVSA_WAN_HOK is not a setting of LVSA; did you mean LVSA_WAN_HOOK?"
    assert misspelt.log.read_text().splitlines()[-1] == sentence
    assert "Traceback" not in misspelt.log.read_text()

"""``vllm serve`` in a process of its own, as users start it but for the engine's warm-up, and requests to it."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import httpx

from tests.support.engine import DTYPE
from tests.support.free_port import free_port

START_UP_SECONDS = 300
REQUEST = {"prompt": "a cat on a mat", "negative_prompt": "bad", "size": "64x64", "num_inference_steps": 2, "seed": 1}


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
        parts = {name: (None, str(value)) for name, value in fields.items()}
        answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/videos/sync", files=parts, timeout=240, trust_env=False)
        return answer.status_code, answer.content

    def healthy(self, timeout: float = 5) -> bool:
        """Whether GET /health answers."""
        try:
            return (
                httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=timeout, trust_env=False).status_code == 200
            )
        except httpx.TransportError:
            return False


def launch(
    checkpoint: Path, log: Path, *options: str, by_lvsa: bool = False, warm_up: bool = False, **settings: str
) -> Server:
    """Start one server on a free port with these LVSA_* settings and no others, in the data type of other tests.

    With ``by_lvsa`` it is started by ``lvsa serve``, which switches LVSA on; ``warm_up``: as in
    :func:`tests.support.engine.start`.
    """
    port = free_port()
    program = Path(sys.executable).with_name("lvsa" if by_lvsa else "vllm")
    address = () if "--headless" in options else ("--host", "127.0.0.1", "--port", str(port))
    omni = () if by_lvsa else ("--omni",)
    command = [str(program), "serve", str(checkpoint), *omni, "--dtype", DTYPE, *address, *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LVSA_")}
    # Else vLLM-Omni picks the workers' port early, of those which its other runtimes may then take.
    environment |= {"LVSA_CPU": "1", "MASTER_PORT": str(free_port()), **settings}
    if warm_up:
        environment.pop("PYTEST_CURRENT_TEST", None)  # see tests/support/startup
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    return Server(process, port, log)


def wait(ready: Callable[[], bool], *servers: Server) -> None:
    """Wait until ``ready``; a server that ends meanwhile, or that takes too long, is an error with its log."""
    deadline = time.monotonic() + START_UP_SECONDS
    while not ready():
        late = time.monotonic() > deadline
        for server in servers:
            assert server.process.poll() is None and not late, f"{server.log}:\n{server.log.read_text()[-4000:]}"
        time.sleep(0.5)


def frames(mp4: bytes) -> tuple[int, int, int]:
    """Number, height and width of a video's frames."""
    with av.open(io.BytesIO(mp4)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return len(decoded), *decoded[0].shape[:2]

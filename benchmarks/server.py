"""A server of a tiny Wan for the benchmarks that try one: on the CPU, or on a GPU where there is one."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import torch

from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

MB = 2**20


class Server:
    """A running server.

    Args:
        checkpoint: folder of its model. log: all that it and its workers print.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, checkpoint: Path, log: Path) -> None:
        self.process, self.url, self.checkpoint, self.log = process, f"http://127.0.0.1:{port}", checkpoint, log

    def client(self, timeout: float = 600) -> httpx.Client:
        """A connection of its own, without the environment's proxies."""
        return httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def video(self, fields: Mapping[str, str]) -> httpx.Response:
        """Ask for a video and wait for it."""
        with self.client() as client:
            return client.post("/v1/videos/sync", files={name: (None, value) for name, value in fields.items()})

    def family(self) -> list[psutil.Process]:
        """Its process and all that it has started."""
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory(self) -> float:
        """Megabytes of all its processes that no other process shares."""
        return sum(one.memory_full_info().uss for one in self.family()) / MB


@contextmanager
def serving(*options: str, plain: bool = False, **settings: str) -> Iterator[Server]:
    """A server of a tiny Wan, ready for requests.

    Args:
        options: of `vllm serve`. plain: the engine's own server, without LVSA. settings: LVSA_* variables.
    """
    with tempfile.TemporaryDirectory(prefix="lvsa-reliability-") as folder:
        checkpoint = write_checkpoint("wan", Path(folder) / "wan")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = Path(folder) / "log"
        program, omni = ("vllm", ["--omni"]) if plain else ("lvsa", [])
        command = [str(Path(sys.executable).with_name(program)), "serve", str(checkpoint), *omni, *options]
        cpu = [] if torch.accelerator.is_available() else ["--dtype", "float32"]
        environment = {**os.environ, "LVSA_CPU": "1", **settings}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port), *cpu],
                stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip
        server = Server(process, port, checkpoint, log)
        try:
            until(lambda: _healthy(server), server)
            yield server
        finally:
            family = server.family()
            process.terminate()
            for one in psutil.wait_procs(family, timeout=30)[1]:
                one.kill()


def until(ready: Callable[[], bool], server: Server, seconds: float = 300) -> None:
    """Wait; a server that has ended is an error with the end of its log."""
    end = time.monotonic() + seconds
    while not ready():
        if server.process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"error: the server did not start:\n{server.log.read_text()[-3000:]}")
        time.sleep(0.5)


def _healthy(server: Server) -> bool:
    try:
        with server.client(5) as client:
            return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def digest(answer: httpx.Response) -> str:
    """SHA-256 of a video, or the status of another answer."""
    return hashlib.sha256(answer.content).hexdigest() if answer.status_code == 200 else f"status {answer.status_code}"

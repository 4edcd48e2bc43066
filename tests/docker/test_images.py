"""The Dockerfiles: their rules, the health check against a real server, and compose.yaml.

A linter knows more rules: hadolint docker/Dockerfile docker/Dockerfile.cpu
"""

import ast
import json
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.support.free_port import free_port

REPOSITORY = Path(__file__).parents[2]
FILES = ["Dockerfile", "Dockerfile.cpu"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Instructions and what is behind them, in their order; lines that go on are one."""
    text = re.sub(r"\\\n\s*", " ", (REPOSITORY / "docker" / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("name", FILES)
def test_what_both_images_hold_to(name: str) -> None:
    steps = instructions(name)
    words = [word for word, _ in steps]
    assert len((REPOSITORY / "docker" / name).read_text().splitlines()) < 25
    assert steps[-1][0] == "RUN" and steps[-1][1].endswith(" lvsa doctor"), "the last step says whether the image works"
    user = [rest for word, rest in steps if word == "USER"][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes knows only a number as not being root"
    assert words.index("VOLUME") > max(at for at, (_, rest) in enumerate(steps) if "mkdir" in rest)
    assert "LABEL" in words and all(word != "ADD" for word in words)
    (base,) = (rest for word, rest in steps if word == "FROM")
    assert ":" in base and "latest" not in base
    for word, rest in steps:
        if word in ("CMD", "VOLUME", "ENTRYPOINT"):
            assert isinstance(json.loads(rest), list), f"{word} without a shell in between"
        named = re.findall(r"\bLVSA_\w+", rest) if word in ("ARG", "ENV") else []
        assert set(named) <= {"LVSA_CPU"}, "an LVSA_ name that is no setting stops start-up"


def test_the_engine_is_the_tested_one() -> None:
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines())
    (argument, *_), (base, *_) = (
        [rest for word, rest in instructions("Dockerfile") if word == wanted] for wanted in ("ARG", "FROM")
    )
    assert argument == f"OMNI_VERSION={pins['vllm-omni']}" and base == "vllm/vllm-omni:v${OMNI_VERSION}"
    assert f"`vllm/vllm-omni:v{pins['vllm-omni']}`" in (REPOSITORY / "docker/README.md").read_text()


def test_what_the_builder_gets() -> None:
    """All that the wheel is made of, the examples, and nothing that is not there."""
    let_through = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[0] == "!"]
    assert [name for name in let_through if not (REPOSITORY / name).exists()] == []
    project = (REPOSITORY / "pyproject.toml").read_text()
    packages = ast.literal_eval(re.search(r"^packages = (\[.*?^\])", project, re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]
    tops = {name.partition(".")[0] for name in packages}
    assert {*tops, "hooks", "configs", "examples", "pyproject.toml", "README.md", "LICENSE"} <= set(let_through)


class Answering(BaseHTTPRequestHandler):
    """Answers a GET with the server's status, after its delay."""

    def do_GET(self) -> None:
        time.sleep(self.server.delay)  # type: ignore[attr-defined]
        self.send_response(self.server.status if self.path == "/health" else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("status", "delay", "code"), [(200, 0, 0), (200, 1.5, 0), (503, 0, 1), (None, 0, 1)])
def test_the_health_check(status: int | None, delay: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a server that is busy, and sees one that is ill or gone; a proxy is not asked for what is here."""
    (check,) = (rest for word, rest in instructions("Dockerfile") if word == "HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    assert "--timeout=10m" in options and "--start-period=" in options
    port = free_port()
    program = [sys.executable, *json.loads(command)[1:]]
    assert "8000" in program[-1]
    program[-1] = program[-1].replace("8000", str(port))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    if status is None:
        assert subprocess.run(program, capture_output=True, timeout=60).returncode == code
        return
    with ThreadingHTTPServer(("127.0.0.1", port), Answering) as server:
        server.status, server.delay = status, delay  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        ran = subprocess.run(program, capture_output=True, timeout=60)
        server.shutdown()
    assert ran.returncode == code, ran.stderr


def test_compose() -> None:
    (service,) = yaml.safe_load((REPOSITORY / "docker/compose.yaml").read_text())["services"].values()
    assert service["command"][:2] == ["lvsa", "serve"] and service["environment"]["LVSA_JOURNAL"].startswith("/cache/")
    assert service["ports"] == ["127.0.0.1:8000:8000"], "the server has no password"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    volumes = {volume.partition(":")[2] for volume in service["volumes"]}
    assert volumes == {"/models", "/cache"}
    assert service["build"] == {"context": "..", "dockerfile": "docker/Dockerfile"}

"""A page in headless Chromium: what a reader would see and do, through its debugging port."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """A page that is open."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers, self._session = socket, count(1), ""

    def open(self, url: str) -> None:
        """Show it, in a window of 1150 x 1500 pixels."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.command("Page.enable")
        self.command("Page.navigate", url=url)
        self._receive(lambda message: message.get("method") == "Page.loadEventFired")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of Chromium's debugging protocol; gives its result."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, **session}))
        answer = self._receive(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def _receive(self, wanted: Any) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv(timeout=60))
            if wanted(message):
                return message

    def value(self, expression: str) -> Any:
        """The value of JavaScript."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key, as a hand would."""
        for kind in ("rawKeyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def scheme(self, name: str) -> None:
        """Make the reader's system light or dark, and wait for the page to follow."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])
        drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.command("Runtime.evaluate", expression=drawn, awaitPromise=True)

    def picture(self, file: Path) -> None:
        """What the window shows, as PNG."""
        file.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))


@contextmanager
def opened(file: Path, profile: Path) -> Iterator[Page]:
    """A file in Chromium; the test is skipped where there is none.

    Args:
        profile: an empty folder for what Chromium writes.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    client = pytest.importorskip("websockets.sync.client", reason="it talks to Chromium")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    flags = [
        "--headless",
        "--window-size=1150,1500",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
    ]
    with subprocess.Popen([program, *flags], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("DevTools listening on "))
            with client.connect(line.split()[-1], max_size=None) as socket:
                page = Page(socket)
                page.open(file.as_uri())
                yield page
        finally:
            process.kill()

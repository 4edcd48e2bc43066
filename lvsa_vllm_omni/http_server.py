"""Where LVSA meets the engine's HTTP server: it ends when it is asked to, and when its workers are lost."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from lvsa_vllm_omni import journal
from lvsa_vllm_omni.seam import MARK

_MODULE = "vllm_omni.entrypoints.openai.api_server"
#: Seconds that open connections have once the engine has stopped, and then the process; between looks at its health.
GRACE, INTERVAL = 5, 5.0


def install() -> Callable[[], None]:
    """Let a server end.

    Target: ``serve_http`` in ``vllm_omni.entrypoints.openai.api_server``.
    Why: asked to end in the middle of a request, vLLM's launcher stops the engine, and then waits without limit for
        the connection of a request that nothing will answer any more; a server that has lost one of several workers
        answers every request with status 500. Older releases also wait for the end of what is computed, which may be
        an hour. What starts servers (Docker, Kubernetes, systemd) starts again what has ended, and nothing else.
    How: give uvicorn a limit for open connections, and the process one for what it still computes; look at the engine's
        own health, and ask the server to end when it is lost.
    Remove when: the launcher gives ``timeout_graceful_shutdown`` to uvicorn, and its watchdog calls ``check_health``.

    Returns:
        A function that takes the patch off again. In a process that serves nothing, nothing is patched.
    """
    module: Any = sys.modules.get(_MODULE)
    if module is None:
        return lambda: None
    original = module.serve_http
    if hasattr(original, MARK):
        return getattr(original, MARK)

    @functools.wraps(original)
    async def serve_http(app: Any, *args: Any, **kwargs: Any) -> Awaitable[None]:
        lost = asyncio.create_task(_lost(app.state.engine_client))
        ending = await original(app, *args, **{"timeout_graceful_shutdown": GRACE, **kwargs})
        await ending
        code = int(lost.done() and lost.result())
        lost.cancel()
        rest = threading.Timer(GRACE, _cut_off, [code])
        rest.daemon = True
        rest.start()
        if code:
            raise SystemExit(code)
        return asyncio.sleep(0)  # the caller waits for the end, which has been waited for

    def undo() -> None:
        module.serve_http = original

    setattr(serve_http, MARK, undo)
    module.serve_http = serve_http
    return undo


async def _lost(engine: Any) -> bool:
    """Look at the engine, and ask this process to end once no worker is left, which is said; False: it ends anyway.

    A model of several stages answers some requests without one of them, and is left alone.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    while engine.num_stages == 1:
        await asyncio.sleep(INTERVAL)
        try:
            await engine.check_health()
        except EngineDeadError as error:
            if getattr(engine, "_shutdown_called", False):  # it was asked to end
                break
            journal.logger.error("[LVSA] the server ends, as it has lost a worker (%s): start it again", error.args[-1])
            os.kill(os.getpid(), signal.SIGTERM)
            return True
    return False


def _cut_off(code: int) -> None:
    """End this process and its workers, whatever they compute: nothing can ask for it any more."""
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)

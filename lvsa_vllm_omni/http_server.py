"""An HTTP server that ends when it is asked to, and when its workers are lost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from lvsa_vllm_omni import journal

#: Seconds that open connections have once the engine has stopped, and then the process; between looks at its health.
GRACE, INTERVAL = 5, 5.0


def with_an_end(serve: Callable[..., Any]) -> Callable[..., Any]:
    """The engine's function that serves, with an end: see :func:`lvsa_vllm_omni.seam.replace_server`."""

    async def serve_http(app: Any, *args: Any, **kwargs: Any) -> Awaitable[None]:
        lost = asyncio.create_task(_lost(app.state.engine_client))
        served = await serve(app, *args, **{"timeout_graceful_shutdown": GRACE, **kwargs})
        await served
        code = int(lost.done() and lost.result())
        lost.cancel()
        rest = threading.Timer(GRACE, _cut_off, [code])
        rest.daemon = True
        rest.start()
        if code:
            raise SystemExit(code)
        return asyncio.sleep(0)  # the caller waits for the end, which has been waited for

    return serve_http


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

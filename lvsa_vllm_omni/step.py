"""Which denoising step of which request is this."""

from __future__ import annotations

import weakref
from typing import Any

from lvsa_core.steps import noisiest
from lvsa_vllm_omni import compat
from lvsa_vllm_omni.request_journal import Ran


class Request:
    """One request on its way through the pipeline, from its first transformer call to the end of its forward context.

    The engine makes one forward context for each request (or batch of requests in lock-step): a new context is step 0.
    """

    def __init__(self, context: Any, asked: Any = None, steps: int | None = None) -> None:
        self._context = weakref.ref(context, self._ended) if context is not None else None
        self._noise: float | None = None
        self._falls = False  # whether the last step had less noise than the one before: then a rise starts another pass
        self._count = -1
        self.step = 0
        self.asked = asked  # what it brings for LVSA, see request_knobs.py
        self.steps = steps  # denoising steps that it asks for, None if it leaves them to the pipeline
        self.reported: set[Any] = set()  # what has been logged about this request
        self.ran = Ran()

    def _ended(self, _context: Any) -> None:
        self._context = None

    def runs_in(self, context: Any) -> bool:
        """Whether this request is the one of ``context``."""
        return context is not None and self._context is not None and self._context() is context

    def advance(self, published: int | None, timestep: Any) -> int:
        """The denoising step of the call that is about to run, from 0.

        Args:
            published: the step the pipeline publishes, None if it publishes none.
            timestep: equal in all calls of a step, and another in the next: a number, or a tensor of numbers. Its value
                is compared, as pipelines make a new tensor for each branch of guidance, or change one in place. It is
                read where no step is published alone: the host waits for the device once in a transformer call.
        """
        if published is None:
            noise = noisiest(timestep)
            if noise != (before := self._noise):
                rises = before is not None and noise > before
                self._count = 0 if self._falls and rises else self._count + 1
                self._falls, self._noise = before is not None and not rises, noise
            published = self._count
        if published < self.step:  # one request in several passes, as a long transfer in chunks
            self.reported.clear()
        self.step = published
        return self.step


_running: Request | None = None


def running_request() -> Request:
    """The request of the current forward context; outside one a request of its own for every call."""
    global _running
    context = compat.forward_context()
    if _running is None or not _running.runs_in(context):
        _running = Request(context) if context is None else Request(context, _asked, _steps)
    return _running


_pipeline: weakref.ref[Any] | None = None
_asked: Any = None
_steps: int | None = None


def enter(pipeline: Any, asked: Any = None, steps: int | None = None) -> None:
    """A pipeline is about to run a request, or several that bring the same knobs and ask for as many steps."""
    global _pipeline, _asked, _steps, _running
    _pipeline, _asked, _steps, _running = None if pipeline is None else weakref.ref(pipeline), asked, steps, None


def steps(request: Request) -> int | None:
    """How many denoising steps a request has: as the pipeline tells, else as it asks; None if neither is known."""
    told = getattr(None if _pipeline is None else _pipeline(), "_num_timesteps", None)
    return told if isinstance(told, int) and told > 0 else request.steps


def steps_asked(sampling: Any) -> int | None:
    """The number of steps in a request's sampling parameters, as the engine itself counts them; None: not there."""
    for name in ("num_inference_steps", "timesteps", "sigmas"):
        if (found := getattr(sampling, name, None)) is not None:
            return found if isinstance(found, int) else len(found)
    return None


def ran() -> Ran:
    """What has run since :func:`enter`."""
    return Ran() if _running is None else _running.ran


def advance(request: Request, timestep: Any) -> int:
    """The request's step, published in its context (Wan) or by its pipeline (Cosmos 3), else told by the timestep.

    A pipeline's own ``current_timestep`` (HunyuanVideo 1.5) goes before the argument ``timestep``, which half precision
    rounds: neighbouring steps would share it.
    """
    pipeline = None if _pipeline is None else _pipeline()
    published = getattr(compat.forward_context(), "denoise_step_idx", None)
    if published is None:
        published = getattr(pipeline, "current_step_index", None)
    current = getattr(pipeline, "current_timestep", None)
    return request.advance(published, timestep if current is None else current)

"""Lines about each denoising step for those who ask for them: time, memory, and the pattern itself."""

from __future__ import annotations

import resource
import time
import weakref

import torch

from lvsa_core import Pattern, show
from lvsa_vllm_omni import compat
from lvsa_vllm_omni.journal import logger
from lvsa_vllm_omni.settings import LvsaSettings
from lvsa_vllm_omni.step import Request

_GB = 1e9


class StepTimer:
    """Wall time of each denoising step, from its first transformer call to that of the next step.

    The last step has no next one; it ends with its last call, and its line comes when the request's context is dropped,
    or the next request begins: a traceback may keep the context. A step in which a call raises has no line.
    """

    def __init__(self) -> None:
        self._step: int | None = None
        self._start = self._end = 0.0

    def begin(self, step: int) -> None:
        """A transformer call of ``step`` begins."""
        if step != self._step:
            self._end = _now()
            self.flush()
            self._step, self._start = step, self._end

    def end(self) -> None:
        """A transformer call ended."""
        self._end = _now()

    def fail(self) -> None:
        """A transformer call raised."""
        self._step = None

    def flush(self) -> None:
        """Print the line of the open step, if there is one."""
        if self._step is not None:
            logger.info("[LVSA-TIME] step=%d dt=%.3fs", self._step, self._end - self._start)
        self._step = None


_timers: weakref.WeakKeyDictionary[Request, StepTimer] = weakref.WeakKeyDictionary()
_latest: StepTimer | None = None


def before_call(settings: LvsaSettings, request: Request, pattern: Pattern | None) -> None:
    """A transformer call begins; ``pattern`` is None where it runs dense."""
    global _latest
    if settings.step_time_log:
        if request not in _timers:
            if _latest is not None:
                _latest.flush()
            _latest = timer = _timers[request] = StepTimer()
            context = compat.forward_context()
            if context is not None:
                weakref.finalize(context, timer.flush).atexit = False
        _timers[request].begin(request.step)
    if pattern is not None and settings.logs_mask(request.step, first="mask" not in request.reported):
        done = {"mask", ("mask", request.step)}
        if not done <= request.reported:
            logger.info("[LVSA-MASK] step=%d %s", request.step, show.text(pattern))
        request.reported |= done


def after_call(settings: LvsaSettings, request: Request) -> None:
    """A transformer call ended."""
    if settings.step_time_log and request in _timers:
        _timers[request].end()
    if settings.mem_log and ("memory", request.step) not in request.reported:
        request.reported.add(("memory", request.step))
        logger.info("[LVSA-MEM] step=%d %s", request.step, _memory())


def failed_call(request: Request) -> None:
    """A transformer call raised."""
    if request in _timers:
        _timers[request].fail()


def _now() -> float:
    """Seconds, after the device has finished what was asked of it."""
    if compat.device_type() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _memory() -> str:
    """Memory of this process's device; on the CPU the resident set."""
    if compat.device_type() == "cuda":
        device = torch.cuda.current_device()
        used = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated())
        label = f"cuda={device}"
    else:
        import psutil

        resident = psutil.Process().memory_info().rss
        used = (resident, resident, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        label = "cpu=0"
    return "{} alloc={:.3f}GB reserved={:.3f}GB peak={:.3f}GB".format(label, *(value / _GB for value in used))

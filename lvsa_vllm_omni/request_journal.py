"""What each request ran: collected from its calls, and told in its answer, in the metrics and in ``LVSA_JOURNAL``."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lvsa_core import FrameGrid, Pattern
from lvsa_vllm_omni import journal, metrics
from lvsa_vllm_omni.request_knobs import asked_by

#: Bytes after which the file is put aside as ``.1``, and how many of these are kept.
LARGEST, KEPT = 50 * 2**20, 5


class DeviceTime:
    """Seconds that calls took on their device. A GPU's own clock runs beside it: no call waits for the device."""

    def __init__(self) -> None:
        self._done = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measured(self, device: torch.device) -> Iterator[None]:
        """Around a call."""
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._events.append((begin, end))
            begin.record()
            try:
                yield
            finally:
                with suppress(RuntimeError):  # a device that the call has put out of use
                    end.record()
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self._done += time.perf_counter() - start

    def seconds(self) -> float | None:
        """Time of all calls; waits for the last of them. None: the device's clock cannot be read any more."""
        try:
            for begin, end in self._events:
                end.synchronize()
                self._done += begin.elapsed_time(end) / 1e3
        except RuntimeError:
            return None
        self._events.clear()
        return self._done


@dataclass
class Ran:
    """A request, or a batch of them in lock-step.

    Args:
        family: of the transformer. kernel, pattern: of the last sparse call. anchors: how it saw them, see
            :func:`lvsa_core.show.anchors`. grid, reason: of the last call, and why it was sparse or dense. density:
            attended pairs of frames over all, by denoising step; 1 where the step was dense. fallbacks: surprises by
            reason. attention: time of LVSA's attention, all layers and calls; dense attention is the engine's own, and
            not measured.
    """

    family: str = ""
    kernel: str = ""
    anchors: str = ""
    grid: FrameGrid | None = None
    reason: str = ""
    pattern: Pattern | None = None
    density: dict[int, float] = field(default_factory=dict)
    fallbacks: Counter[str] = field(default_factory=Counter)
    attention: DeviceTime = field(default_factory=DeviceTime)

    def call(self, step: int, grid: FrameGrid | None, reason: str, pattern: Pattern | None = None) -> None:
        """A transformer call is about to run; a pattern says that it is sparse."""
        self.grid, self.reason = grid, reason
        self.density[step] = 1.0 if pattern is None else pattern.density
        self.pattern = pattern or self.pattern

    def told(self) -> dict[str, Any]:
        """As it stands in the journal."""
        pattern, sparse = self.pattern, sum(density < 1 for density in self.density.values())
        ran = "fallback" if self.fallbacks else "sparse" if sparse else "dense"
        attention = self.attention.seconds()
        return {
            "outcome": ran if self.density else "not run",
            "reason": self.reason,
            "family": self.family or None,
            "latent_frames": self.grid.frames if self.grid else None,
            "patches": self.grid.patches if self.grid else None,
            "attended_per_frame": pattern.attended_per_frame if pattern else None,
            "density": round(sum(self.density.values()) / len(self.density), 4) if self.density else None,
            "anchors": self.anchors or None,
            "kernel": self.kernel or None,
            "steps": len(self.density),
            "sparse_steps": sparse,
            "attention_seconds": None if attention is None else round(attention, 4),
            "fallbacks": dict(self.fallbacks),
        }


def tell(
    path: str | None,
    model: str,
    requests: Sequence[Any],
    ran: Ran,
    seconds: float,
    raised: str | None = None,
    result: Any = None,
) -> set[str]:
    """Tell of each of the requests that ran together: in its answer, in the metrics, and as a line of the journal.

    Metrics and journal are the first process's of an engine. Nothing that fails here reaches a request: the first
    failure is a warning. Prompts are not told.

    Args:
        path: of the journal; None: there is none. model: the pipeline's class. requests: the engine's; its trial runs
            are left out. seconds: of the worker, for all of them together.
        raised: the error that ended them all. result: what the engine answers, which tells of single ones' errors.

    Returns:
        The names of those that have failed.
    """
    failed: set[str] = set()
    first = not (dist.is_available() and dist.is_initialized() and dist.get_rank())
    told = ran.told()
    for request in requests:
        if getattr(request, "is_dummy_run", bool)():
            continue
        name = str(getattr(request, "request_id", ""))
        answer = _answer(result, name)
        error = raised or _error(answer)
        if error is not None:
            failed.add(name)
        with _without_harm("what ran cannot be put into answers"):
            _put(answer, told)
        if not first:
            continue
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "request": name,
            "model": model,
            **told,
            "batch": len(requests),
            "knobs": asked_by(request),
            "seconds": round(seconds, 3),
            "error": error.strip().splitlines()[-1] if error and error.strip() else None,
        }
        if path:
            with _without_harm(f"LVSA_JOURNAL={path} cannot be written"):
                _lines(path).info(json.dumps(line, default=repr))
        with _without_harm("requests cannot be counted for /metrics"):
            metrics.observe(line)
    return failed


@contextmanager
def _without_harm(what: str) -> Iterator[None]:
    """Whatever fails inside, the videos are made: the first failure of a kind is a warning."""
    try:
        yield
    except Exception as problem:
        journal.logger.warning_once("[LVSA] %s", f"{what}: {problem}")


def _answer(result: Any, request: str) -> Any:
    """The engine's answer to a request, which may stand in that to its batch."""
    if hasattr(result, "get_request_output"):
        return getattr(result.get_request_output(request), "result", None)
    return result


def _error(answer: Any) -> str | None:
    """Why a request has no video."""
    error = getattr(answer, "error", None) or getattr(answer, "abort_message", None)
    return str(error) if error else None


def _put(answer: Any, told: dict[str, Any]) -> None:
    """Put what ran into an answer, where the engine has room for numbers: ``stage_durations``, which clients get.

    What is no number is a name with the number 1.
    """
    if not hasattr(answer, "stage_durations"):
        return
    found = {f"lvsa.{name}": float(value) for name, value in told.items() if isinstance(value, (int, float))}
    names = {f"lvsa.{name}={told[name]}": 1.0 for name in ("outcome", "anchors", "kernel", "reason") if told[name]}
    lost = {f"lvsa.fallback={reason}": float(times) for reason, times in told["fallbacks"].items()}
    answer.stage_durations = {**(answer.stage_durations or {}), **found, **names, **lost}


@lru_cache(maxsize=4)
def _lines(path: str) -> logging.Logger:
    """A logger that writes its messages to a file which several processes share."""
    from concurrent_log_handler import ConcurrentRotatingFileHandler

    class Handler(ConcurrentRotatingFileHandler):
        """Warns once where others print every error."""

        def handleError(self, record: logging.LogRecord) -> None:
            """A line could not be written."""
            journal.logger.warning_once("[LVSA] %s", f"LVSA_JOURNAL={path} cannot be written: {sys.exc_info()[1]}")

    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = Handler(str(file), maxBytes=LARGEST, backupCount=KEPT, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    found = logging.Logger(f"lvsa.journal.{path}", logging.INFO)
    found.addHandler(handler)
    return found

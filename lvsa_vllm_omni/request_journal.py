"""What each request ran: collected from its transformer calls, and written as one line of ``LVSA_JOURNAL``."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lvsa_core import FrameGrid, Pattern
from lvsa_vllm_omni import journal
from lvsa_vllm_omni.request_knobs import asked_by

#: Bytes after which the file is put aside as ``.1``, and how many of these are kept.
LARGEST, KEPT = 50 * 2**20, 5


@dataclass
class Ran:
    """A request, or a batch of them in lock-step.

    Args:
        family: of the transformer. kernel, pattern: of the last sparse call. grid, reason: of the last call, and why it
            was sparse or dense. density: attended pairs of frames over all, by denoising step; 1 where the step was
            dense. fallbacks: surprises by reason.
    """

    family: str = ""
    kernel: str = ""
    grid: FrameGrid | None = None
    reason: str = ""
    pattern: Pattern | None = None
    density: dict[int, float] = field(default_factory=dict)
    fallbacks: Counter[str] = field(default_factory=Counter)

    def call(self, step: int, grid: FrameGrid | None, reason: str, pattern: Pattern | None = None) -> None:
        """A transformer call is about to run; a pattern says that it is sparse."""
        self.grid, self.reason = grid, reason
        self.density[step] = 1.0 if pattern is None else pattern.density
        self.pattern = pattern or self.pattern

    def told(self) -> dict[str, Any]:
        """As it stands in the journal."""
        pattern, sparse = self.pattern, sum(density < 1 for density in self.density.values())
        ran = "fallback" if self.fallbacks else "sparse" if sparse else "dense"
        return {
            "outcome": ran if self.density else "not run",
            "reason": self.reason,
            "family": self.family or None,
            "latent_frames": self.grid.frames if self.grid else None,
            "patches": self.grid.patches if self.grid else None,
            "attended_per_frame": max(map(pattern.attended_count, range(pattern.frames))) if pattern else None,
            "density": round(sum(self.density.values()) / len(self.density), 4) if self.density else None,
            "kernel": self.kernel or None,
            "steps": len(self.density),
            "sparse_steps": sparse,
            "fallbacks": dict(self.fallbacks),
        }


def write(
    path: str, model: str, requests: Sequence[Any], ran: Ran, seconds: float, raised: str | None, result: Any = None
) -> None:
    """Write a line for each of the requests that ran together; by the first of the processes of an engine.

    Nothing that fails here reaches a request: the first failure is a warning. Prompts are not written.

    Args:
        path: of the file. model: the pipeline's class. requests: the engine's; its trial runs are left out.
        seconds: of the worker, for all of them together.
        raised: the error that ended them all. result: what the engine answers, which tells of single ones' errors.
    """
    try:
        if dist.is_available() and dist.is_initialized() and dist.get_rank():
            return
        for request in requests:
            if getattr(request, "is_dummy_run", bool)():
                continue
            name = str(getattr(request, "request_id", ""))
            error = raised or _error(result, name)
            line = {
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "request": name,
                "model": model,
                **ran.told(),
                "batch": len(requests),
                "knobs": asked_by(request),
                "seconds": round(seconds, 3),
                "error": error.strip().splitlines()[-1] if error and error.strip() else None,
            }
            _lines(path).info(json.dumps(line, default=repr))
    except Exception as problem:  # whatever it is, the videos are made
        _warn(path, problem)


def _error(result: Any, request: str) -> str | None:
    """Why a request has no video, from the engine's answer to it or to its batch."""
    if hasattr(result, "get_request_output"):
        result = getattr(result.get_request_output(request), "result", None)
    error = getattr(result, "error", None) or getattr(result, "abort_message", None)
    return str(error) if error else None


def _warn(path: str, problem: BaseException | None) -> None:
    journal.logger.warning_once("[LVSA] LVSA_JOURNAL=%s cannot be written: %s", path, str(problem))


@lru_cache(maxsize=4)
def _lines(path: str) -> logging.Logger:
    """A logger that writes its messages to a file which several processes share."""
    from concurrent_log_handler import ConcurrentRotatingFileHandler

    class Handler(ConcurrentRotatingFileHandler):
        """Warns once where others print every error."""

        def handleError(self, record: logging.LogRecord) -> None:
            """A line could not be written."""
            _warn(path, sys.exc_info()[1])

    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = Handler(str(file), maxBytes=LARGEST, backupCount=KEPT, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    found = logging.Logger(f"lvsa.journal.{path}", logging.INFO)
    found.addHandler(handler)
    return found

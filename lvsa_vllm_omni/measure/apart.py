"""Work in processes of their own: what crashes or hangs there costs the result of the job in hand, and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from lvsa_core.kernels.cuda import unusable

#: Forked from a process that has imported PyTorch, which takes seconds, and has not touched a device.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch"])

#: A job's ``result`` (right, wrong, passed, skipped, failed, crashed, unavailable), the ``reason``, and what was found.
Result = dict[str, Any]
Answer = Callable[[Any, Result], None]
#: Does the jobs in their order and answers each; it has to be picklable.
Work = Callable[[Sequence[Any], Answer], None]


def first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def apart(work: Work, jobs: Sequence[Any], job_seconds: float, until: float) -> Iterator[tuple[Any, Result]]:
    """Jobs and their results. Whatever ends the process costs the job in hand, and the next begins in a new process.

    Args:
        job_seconds: that a job may take, then its process is killed.
        until: of :func:`time.monotonic`; then the job in hand is dropped without a result.
    """
    left = [*jobs]
    while left and time.monotonic() < until:
        answers, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_begin, args=(work, left.copy(), sender))
        process.start()
        sender.close()
        before, fault = len(left), ""
        try:
            while left:
                remaining = until - time.monotonic()
                if not answers.poll(max(0.0, min(job_seconds, remaining))):
                    if remaining < job_seconds:
                        return
                    fault = f"no result within {job_seconds:.0f} s"
                    break
                job, result = answers.recv()
                left.remove(job)
                yield job, result
        except EOFError:
            process.join(10)
            code = process.exitcode or 0
            fault = f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"
            if code == 0 and len(left) < before:  # it left the others to a new process
                continue
        finally:
            _end(process)
        if left:
            yield left.pop(0), {"result": "crashed", "reason": fault}


def _end(process: Any) -> None:
    """Kill what is left of a process, with the compilers that it may have started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(10)  # a device may hold it for ever


def _begin(work: Work, jobs: Sequence[Any], sender: Any) -> None:
    os.setsid()
    work(jobs, lambda job, result: sender.send((job, result)))


def one_by_one(function: Callable[[Any], Result], jobs: Sequence[Any], answer: Answer) -> None:
    """Work that is a function of one job. An exception costs the job; a lost device ends the process."""
    for job in jobs:
        try:
            result = function(job)
        except Exception as error:  # such as no memory: the other jobs still count
            result = {"result": "failed", "reason": first_line(error)}
        answer_or_leave(job, result, answer)


def answer_or_leave(job: Any, result: Result, answer: Answer) -> None:
    """Answer; end the process if an illegal access has made its device useless, as every later job would fail too."""
    if result["result"] != "failed" or not device_lost():
        return answer(job, result)
    answer(job, {**result, "result": "crashed"})
    os._exit(0)


def device_lost() -> bool:
    """Whether an illegal access or the like has ended all use of the device in this process."""
    return torch.cuda.is_initialized() and unusable(torch.device("cuda")) is not None

"""The ranks of a case: fresh processes that talk over gloo, forked from one that has imported the engine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

from tests.support import worker
from tests.support.free_port import free_port

#: Of a forked process: the engine logs much, and the ranks share few cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: Seconds that the other ranks get after one has failed; they may wait for it for ever.
GRACE = 10.0
#: Lines of a rank's output that are shown where it did not answer.
SHOWN = 60


class Ranks:
    """Runs cases one after another.

    A rank is forked from Python's fork server, where the engine is imported but nothing has been started: the import of
    20 to 60 seconds is paid once, and no case can leave anything to the next.

    Args:
        folder: where the output of the ranks goes. timeout: seconds for a case.
    """

    _server: int | None = None  # process of the server that ranks are forked from

    def __init__(self, folder: Path, timeout: float = 120.0) -> None:
        self.folder, self.timeout = folder, timeout
        self.context = multiprocessing.get_context("forkserver")
        # A rank imports what started the tests.
        self.context.set_forkserver_preload([*worker.MODULES, "pytest", worker.__name__, "tests.support.warm"])
        self._cases = 0
        server: Any = forkserver._forkserver
        if server._forkserver_pid != Ranks._server:  # other tests have started one, which has not imported the engine
            server._stop()
        with _environment(ENVIRONMENT):
            forkserver.ensure_running()
        Ranks._server = server._forkserver_pid

    def run(self, case: worker.Case) -> list[worker.Result]:
        """Run a case; one result a rank, in their order. What goes wrong in a rank is its result's ``error``."""
        self._cases += 1
        logs = [self.folder / f"case{self._cases}-rank{rank}.log" for rank in range(case.ranks)]
        port, processes, pipes = free_port(), [], []
        for rank, log in enumerate(logs):
            here, there = self.context.Pipe(duplex=False)
            process = self.context.Process(target=worker.main, args=(case, rank, port, log, there), daemon=True)
            process.start()
            there.close()
            processes.append(process)
            pipes.append(here)
        try:
            found = self._collect(pipes)
            return [found.get(rank) or _silent(rank, processes[rank], log) for rank, log in enumerate(logs)]
        finally:
            for process in processes:
                process.join(1.0)
                if process.is_alive():
                    process.kill()
                    process.join()

    def _collect(self, pipes: list[Any]) -> dict[int, worker.Result]:
        """The results that arrive in time, by rank; the time is cut short when one of them is an error."""
        found: dict[int, worker.Result] = {}
        waiting, deadline = set(range(len(pipes))), time.monotonic() + self.timeout
        while waiting and (left := deadline - time.monotonic()) > 0:
            ready = connection.wait([pipes[rank] for rank in waiting], left)
            for rank in [rank for rank in waiting if pipes[rank] in ready]:
                waiting.remove(rank)
                with suppress(EOFError):  # the process died
                    found[rank] = pipes[rank].recv()
                if rank not in found or found[rank].error:
                    deadline = min(deadline, time.monotonic() + GRACE)
        return found


def _silent(rank: int, process: Any, log: Path) -> worker.Result:
    """The result of a rank that gave none: where it is stuck, or how it ended, and the end of its output."""
    process.join(0.5)
    lines = _lines(log)
    if process.is_alive():
        os.kill(process.pid, signal.SIGUSR1)  # it writes where its threads are, the innermost call first
        time.sleep(0.5)
        what, stacks = "did not answer in time", _lines(log)[len(lines) :]
    else:
        what, stacks = f"ended with exit code {process.exitcode}", []
    return worker.Result(
        rank, error="\n".join([f"rank {rank} {what}; the end of its output:", *lines[-SHOWN:], *stacks[:SHOWN]])
    )


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

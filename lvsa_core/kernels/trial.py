"""Kernels tried in processes of their own, where one that crashes takes nothing with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from lvsa_core.kernels.cuda import unusable
from lvsa_core.kernels.registry import Kernel
from lvsa_core.kernels.selftest import self_test

#: Seconds for a kernel, of which some compile themselves first.
PATIENCE = 600.0


class Trial(NamedTuple):
    """What came of a kernel.

    Attributes:
        kernel: its name. reason: why it is not right, empty if it is.
    """

    kernel: str
    outcome: Literal["right", "wrong", "crashed", "not available"]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kernel}: {self.outcome}{f' ({self.reason})' if self.reason else ''}"


def trial(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, head_size: int, patience: float = PATIENCE
) -> Trial:
    """Run a kernel's self-test in a new process.

    Crashed is a kernel that ends its process, leaves the device unusable in it, or does not come to an end.

    Args:
        patience: seconds to wait for it.
    """
    if reason := kernel.available(device, dtype, head_size):
        return Trial(kernel.name, "not available", reason)
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "stderr")
        process = spawn.Process(target=_run, args=(there, said, kernel, device, dtype, head_size), daemon=True)
        process.start()
        there.close()
        try:
            wrong, broken = here.recv() if here.poll(patience) else ("", f"no end within {patience:g} s")
        except EOFError:  # the process has ended
            process.join()
            wrong, broken = "", _end(process.exitcode or 0, said)
        finally:
            process.kill()
            process.join()
    if broken:
        return Trial(kernel.name, "crashed", broken)
    return Trial(kernel.name, "wrong", wrong) if wrong else Trial(kernel.name, "right")


def _run(
    pipe: Connection, said: Path, kernel: Kernel, device: torch.device, dtype: torch.dtype, head_size: int
) -> None:
    """In the new process: send what the self-test finds, and what became of the device."""
    with said.open("w") as file:
        os.dup2(file.fileno(), 2)
        wrong = self_test(kernel, device, dtype, head_size) or ""
        pipe.send((wrong, f"{wrong}; {device} is unusable after it" if unusable(device) else ""))


def _end(code: int, said: Path) -> str:
    """How a process ended, and the last line that it wrote."""
    how = f"it ended its process with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    lines = said.read_text(errors="replace").split("\n") if said.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{how}: {last}" if last else how

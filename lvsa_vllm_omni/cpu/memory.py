"""Memory of this process and of the machine, under the names by which the engine asks an accelerator."""

import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch


class HostMemory:
    """Memory queries for a platform whose device is the host.

    ``torch.cpu`` has no memory statistics, and ``Platform.__getattr__`` answers an unknown name with None: without this
    class the first request ends in "'NoneType' object is not callable".
    """

    @classmethod
    def empty_cache(cls) -> None:
        """Do nothing: the host allocator keeps no cache that could be given back."""

    @classmethod
    def reset_peak_memory_stats(cls, device: Any = None) -> None:
        """Start a new peak, so that each request reports its own (Linux; elsewhere the peak is that of the process)."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    @classmethod
    def max_memory_allocated(cls, device: Any = None) -> int:
        """Peak resident memory of this process in bytes, since the last reset."""
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak

    @classmethod
    def max_memory_reserved(cls, device: Any = None) -> int:
        """Peak resident memory: nothing is reserved beyond what is used."""
        return cls.max_memory_allocated(device)

    @classmethod
    def memory_reserved(cls, device: Any = None) -> int:
        """Resident memory of this process in bytes."""
        return int(psutil.Process().memory_info().rss)

    @classmethod
    def get_current_memory_usage(cls, device: Any = None) -> float:
        """Resident memory of this process in bytes (the name that vLLM's own memory profiler uses)."""
        return float(cls.memory_reserved(device))

    @classmethod
    def get_free_memory(cls, device: torch.device | None = None) -> int:
        """Bytes that the machine can still give."""
        return int(psutil.virtual_memory().available)

    @classmethod
    def get_device_memory(cls, device: torch.device | None = None) -> tuple[int, int]:
        """Free and total bytes of the machine."""
        return cls.get_free_memory(device), cls.get_device_total_memory()

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Bytes of memory of the machine."""
        return int(psutil.virtual_memory().total)

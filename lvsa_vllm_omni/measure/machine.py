"""What measured numbers depend on: the machine, the versions, the commit and the command."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

#: What a Linux says about its memory.
_MEMINFO = Path("/proc/meminfo")
ROOT = Path(__file__).parents[2]
#: Packages whose versions are named, where they are installed.
PACKAGES = ("triton", "fa3-fwd", "flashinfer-python", "diffusers", "vllm", "vllm-omni")


def facts(device: torch.device, commit: str | None = None) -> dict[str, Any]:
    """Date, command, commit, processor, device, driver and versions; None where there is none.

    Args:
        commit: of this repository, where git cannot tell it.
    """
    return {
        "date": datetime.now().isoformat(" ", "minutes"),
        "command": command(sys.argv),
        "commit": commit or _commit(),
        "processor": f"{processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "device": _card(device),
        "driver": driver() if device.type == "cuda" else None,
        "versions": ", ".join(_versions(device)),
    }


def command(arguments: list[str]) -> str:
    """A command line without the folders of this machine: of an absolute path only the last part."""
    program, *rest = (re.sub(r"(^|(?<==))/.*/", "", word) for word in arguments)
    return shlex.join([*["python"][: program.endswith(".py")], program, *rest])


def _commit() -> str | None:
    """The commit of the checkout that this package lies in, with ``-dirty`` if files differ from it."""
    if not (ROOT / ".git").exists():  # an installed package, perhaps inside of another repository
        return None
    return _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*")


def processor() -> str:
    """Its name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def memory(device: torch.device) -> tuple[int, int] | tuple[None, None]:
    """Bytes that a device has, and those of them that are free; None where it does not tell."""
    if device.type == "cpu":
        lines = (line.split() for line in _MEMINFO.read_text().splitlines()) if _MEMINFO.exists() else ()
        sizes = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}
        return (sizes["MemTotal"], sizes["MemAvailable"]) if sizes else (None, None)
    if device.type != "cuda":
        return None, None
    free, total = torch.cuda.mem_get_info(device)
    return total, free


def _card(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    card = torch.cuda.get_device_properties(device)
    return f"{card.name}, {card.total_memory / 2**30:.0f} GiB"


def driver() -> str | None:
    """Version of NVIDIA's driver, None if there is none."""
    file = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b\d{3}(\.\d+)+", file.read_text()) if file.exists() else None
    if found:
        return found[0]
    return (_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "").partition("\n")[
        0
    ] or None


def _versions(device: torch.device) -> list[str]:
    found = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    if device.type == "cuda":
        found.append(f"CUDA {torch.version.cuda}")
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def _output(*words: str) -> str | None:
    """What a program prints, None if it is missing or fails."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch could not get memory; its CPU allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)

"""What a CUDA device can run, and whether it still runs anything."""

from __future__ import annotations

from functools import lru_cache

import torch

HALF = (torch.float16, torch.bfloat16)


@lru_cache(maxsize=64)
def capability(device: torch.device) -> tuple[int, int]:
    """The device's compute capability; (0, 0) if PyTorch finds no CUDA device."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else (0, 0)


def unfit(
    device: torch.device,
    dtype: torch.dtype,
    head_size: int,
    *,
    dtypes: tuple[torch.dtype, ...],
    needs: tuple[int, int],
) -> str | None:
    """Why a CUDA kernel cannot run there; None if it can.

    Args:
        dtypes: those that the kernel takes. needs: the lowest compute capability that it runs on.
    """
    if device.type != "cuda":
        return f"it needs a CUDA device, not {device.type}"
    if dtype not in dtypes:
        return f"it takes {' and '.join(str(x).removeprefix('torch.') for x in dtypes)}, not {dtype}"
    if head_size % 8 or head_size > 256:
        return f"head size must be a multiple of 8 up to 256 on cuda, got {head_size}"
    found = capability(device)
    if found == (0, 0):
        return "PyTorch finds no CUDA device"
    if found < needs:
        return f"it needs compute capability {needs[0]}.{needs[1]}, this device has {found[0]}.{found[1]}"
    return None


def unusable(device: torch.device) -> str | None:
    """Why nothing runs on a CUDA device any more; None if it works, or if it is no CUDA device.

    An illegal access, of whatever program part, ends all use of the device in its process: each later call fails, with
    the same error. Waits for the device.
    """
    if device.type != "cuda":
        return None
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:
        return str(error).strip().partition("\n")[0]
    return None

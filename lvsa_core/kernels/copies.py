"""Copies of the frames of keys and values in another order."""

from __future__ import annotations

import torch
from torch import Tensor


def frames_in_order(video: Tensor, order: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
    """Frames of ``video`` [.., T, P, H, D] in the given order, copied, [.., len(order), P, H, D].

    Args:
        order: frames, int32. dim: the dimension of ``video`` that counts frames. out: where to; None: new memory.
    """
    if _on_cpu(video) or not _in_16_bytes(video) or (out is not None and not _in_16_bytes(out)):
        return torch.index_select(video, dim, order, out=out)
    # PyTorch copies number by number, so larger numbers are faster.
    dtype, out = video.dtype, None if out is None else out.view(torch.complex128)
    return torch.index_select(video.view(torch.complex128), dim, order, out=out).view(dtype)


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _in_16_bytes(x: Tensor) -> bool:
    """Whether the tensor can be viewed as numbers of 16 bytes."""
    counts = (x.shape[-1], x.storage_offset(), *x.stride()[:-1])
    return x.stride(-1) == 1 and all(count * x.itemsize % 16 == 0 for count in counts)

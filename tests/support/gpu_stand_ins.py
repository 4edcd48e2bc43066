"""Runs ``benchmarks/gpu.py`` with kernels that go wrong in every way; its processes run this file anew."""

import os
import sys
from typing import Any

import gpu

from lvsa_core.kernels import KERNELS
from lvsa_core.kernels.sdpa import SdpaKernel
from tests.support.crashing import Aborting


class Wrong(SdpaKernel):
    """Joins windows with wrong weights."""

    name = "wrong"

    def attention(self, *arguments: Any) -> Any:
        out, lse = super().attention(*arguments)
        return out, 0 * lse


class Raising(SdpaKernel):
    name = "raising"

    def attention(self, *arguments: Any) -> Any:
        raise OSError("a library is missing")


class Late(SdpaKernel):
    """Right where it is checked; ends its process where it is timed."""

    name = "late"

    def attention(self, q: Any, *arguments: Any) -> Any:
        if q.shape[3] == 16:
            os.abort()
        return super().attention(q, *arguments)


real = [KERNELS[name] for name in ("FlashAttention3", "sdpa", "FlashInfer")]
KERNELS.clear()
KERNELS.update({kernel.name: kernel for kernel in (Aborting(), Wrong(), Raising(), *real, Late())})

if __name__ == "__main__":
    sys.exit(gpu.main())

"""A kernel that ends its process, for the tests of what must survive that."""

import os
import sys
from typing import Any

from torch import Tensor

from lvsa_core.kernels.sdpa import SdpaKernel


class Aborting(SdpaKernel):
    """As a library that ends the process when the device reports an error."""

    name = "aborting"

    def attend(self, *given: Any, **more: Any) -> Tensor:
        print("CUDA error (flash_fwd.cu:78): an illegal memory access", file=sys.stderr, flush=True)
        os.abort()

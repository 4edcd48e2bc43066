"""A kernel that ends its process, for the tests of what must survive that."""

import os
from typing import Any

from torch import Tensor

from lvsa_core.kernels.sdpa import SdpaKernel


class Aborting(SdpaKernel):
    """As a library that ends the process when the device reports an error."""

    name = "aborting"

    def attend(self, *given: Any, **more: Any) -> Tensor:
        os.abort()

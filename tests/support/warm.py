"""What every rank would do at its start, once in the process that ranks are forked from: the kernel's self-test."""

import torch

from lvsa_core.kernels import select
from lvsa_vllm_omni.tiny.sizes import TRANSFORMER

for dtype in (torch.float32, torch.bfloat16):
    select("auto", torch.device("cpu"), dtype, TRANSFORMER["head_dim"], True)

"""A kernel whose error leaves the device unusable: one sentence in its process, one line from a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_vllm_omni.measure.trial import trial
from tests.support.gpu_calls import CUDA

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ROOT = Path(__file__).parents[2]


class Reckless(SdpaKernel):
    """Reads where nothing is, which the device notices."""

    name = family = "reckless"

    def attend(self, q: Tensor, *given: Any, **more: Any) -> Tensor:
        return q[:, torch.tensor([2**30], device=q.device)]


def test_start_up_stops_with_a_sentence() -> None:
    program = (
        "import torch\n"
        "from lvsa_core.kernels import KERNELS, select\n"
        "from tests.gpu.test_gpu_crash import Reckless\n"
        "others = dict(KERNELS); KERNELS.clear(); KERNELS.update({'reckless': Reckless(), **others})\n"
        "select('auto', torch.device('cuda', 0), torch.bfloat16, 128)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert "the attention kernel reckless has put cuda:0 out of use for this process" in last
    assert "LVSA_SKIP_KERNELS=reckless" in last


def test_in_a_process_of_its_own() -> None:
    found = trial(Reckless(), CUDA, torch.bfloat16, 128)
    assert found.outcome == "crashed" and "is unusable after it" in found.reason
    assert str(trial(SdpaKernel(), CUDA, torch.bfloat16, 128)) == "sdpa: right"

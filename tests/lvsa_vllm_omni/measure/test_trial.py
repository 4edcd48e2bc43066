"""Kernels tried in processes of their own: what ends the process ends only that."""

import os
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_vllm_omni.measure.trial import trial
from tests.support.crashing import Aborting

CPU = torch.device("cpu")


class Exiting(SdpaKernel):
    name = "exiting"

    def attend(self, *given: Any, **more: Any) -> Tensor:
        os._exit(1)


class Stuck(SdpaKernel):
    name = "stuck"

    def attend(self, *given: Any, **more: Any) -> Tensor:
        time.sleep(600)
        raise AssertionError


class Wrong(SdpaKernel):
    name = "wrong"

    def attend(self, *given: Any, **more: Any) -> Tensor:
        return torch.zeros_like(given[0])


class Absent(SdpaKernel):
    name = "absent"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        return "it was never built"


@pytest.mark.multiproc
@pytest.mark.parametrize(
    ("kernel", "line"),
    [
        (SdpaKernel(), "sdpa: right"),
        (Wrong(), "wrong: wrong (its self-test is off by "),
        (Absent(), "absent: not available (it was never built)"),
        (Aborting(), "aborting: crashed (its process ended with SIGABRT)"),
        (Exiting(), "exiting: crashed (its process ended with exit status 1)"),
    ],
)
def test_what_comes_of_a_kernel(kernel: SdpaKernel, line: str) -> None:
    assert str(trial(kernel, CPU, torch.float32, 64)).startswith(line)


@pytest.mark.multiproc
def test_a_kernel_that_does_not_end() -> None:
    start = time.monotonic()
    assert str(trial(Stuck(), CPU, torch.float32, 64, patience=1)) == "stuck: crashed (no result within 1 s)"
    assert time.monotonic() - start < 60

"""The choice of a kernel, and what is said when there is none."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lvsa_core.kernels import KERNELS, Kernel, KernelUnavailable, select

CPU = torch.device("cpu")


class Broken:
    """A kernel that never runs."""

    name = "broken"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        return "it was never built"

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        raise AssertionError("a kernel that is not available was called")


@pytest.fixture
def broken_first() -> Iterator[Kernel]:
    """The broken kernel at the head of the registry for the time of one test."""
    others = dict(KERNELS)
    KERNELS.clear()
    KERNELS.update({"broken": Broken(), **others})
    select.cache_clear()
    try:
        yield KERNELS["broken"]
    finally:
        KERNELS.clear()
        KERNELS.update(others)
        select.cache_clear()


def test_auto_takes_the_first_that_runs(broken_first: Kernel) -> None:
    assert select("auto", CPU, torch.float32, 128).name == "sdpa"
    assert select("sdpa", CPU, torch.float32, 128).name == "sdpa"
    assert all(kernel.name == name for name, kernel in KERNELS.items())


def test_a_named_kernel_is_not_replaced(broken_first: Kernel) -> None:
    with pytest.raises(KernelUnavailable) as error:
        select("broken", CPU, torch.bfloat16, 128)
    assert str(error.value) == (
        "no attention kernel for torch.bfloat16 with head size 128 on cpu (broken: it was never built); "
        "use a supported device or switch LVSA off"
    )


def test_auto_lists_every_reason(broken_first: Kernel) -> None:
    with pytest.raises(
        KernelUnavailable, match="broken: it was never built; sdpa: PyTorch's attention gives no"
    ) as error:
        select("auto", torch.device("meta"), torch.float32, 128)
    assert "on meta" in str(error.value) and str(error.value).endswith("use a supported device or switch LVSA off")


def test_unknown_name() -> None:
    names = ", ".join(KERNELS)
    sentence = f"attention kernel 'quick' is not part of this version: choose one of auto, {names}"
    with pytest.raises(KernelUnavailable) as error:
        select("quick", CPU, torch.float32, 128)
    assert str(error.value) == sentence
    assert issubclass(KernelUnavailable, RuntimeError)

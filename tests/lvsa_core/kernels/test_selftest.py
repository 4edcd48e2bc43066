"""The self-test finds what a kernel can get wrong."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core import Pattern, TokenLayout
from lvsa_core.kernels import selftest
from lvsa_core.kernels.sdpa import SdpaKernel
from lvsa_core.kernels.selftest import LAYOUT, PATTERN, self_test

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Wrong(SdpaKernel):
    """A kernel with one thing wrong."""

    def __init__(self, **changes: Any) -> None:
        self.__dict__.update(changes)


def shifted(**change: int) -> Any:
    """The right kernel on a slightly different pattern."""

    def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
        values = {name: getattr(pattern, name) for name in Pattern.__dataclass_fields__}
        return SdpaKernel().attend(q, k, v, Pattern(**{**values, **change}), layout, scale)

    return attend


def stale_rows(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
    """Leaves the last row of the video unwritten."""
    out = SdpaKernel().attend(q, k, v, pattern, layout, scale)
    out[:, layout.q_before + layout.real_rows - 1] = float("nan")
    return out


def base_two(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse = SdpaKernel().attention(q, k, v, scale)
    return out, lse * 1.4427


def one_key_lost(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
    held = torch.arange(k.shape[1]) != 700
    return SdpaKernel().attend(q, k, v * held[:, None, None], pattern, layout, scale)


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
    return SdpaKernel().attend(q, k, v, pattern, layout, scale * 1.2)


def raises(*args: Any) -> Tensor:
    raise RuntimeError("no kernel image is available\nfor this device")


WRONG = {
    "window": shifted(window=2),
    "anchors": shifted(offset=1),
    "unwritten": stale_rows,
    "one key lost": one_key_lost,
    "scale": wrong_scale,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str, dtype: torch.dtype) -> None:
    assert "its self-test is off by" in str(self_test(Wrong(attend=WRONG[name]), CPU, dtype, 64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_log_sum_exp_of_another_base_is_found(dtype: torch.dtype) -> None:
    assert "its self-test is off by" in str(self_test(Wrong(attention=base_two), CPU, dtype, 64))


def test_an_exception_is_a_reason() -> None:
    found = self_test(Wrong(attend=raises), CPU, torch.float32, 64)
    assert found == "its self-test raised RuntimeError: no kernel image is available"


def test_it_holds_everything_an_engine_may_ask_for() -> None:
    assert not PATTERN.is_dense and LAYOUT.pad
    assert all((LAYOUT.kv_before, LAYOUT.kv_after, LAYOUT.q_before, LAYOUT.q_after))
    assert len({low for low, _ in PATTERN.windows}) > 3


def test_it_is_quick_and_leaves_the_random_numbers_alone() -> None:
    selftest._inputs.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert self_test(SdpaKernel(), CPU, torch.bfloat16, 128) is None
        seconds.append(time.perf_counter() - start)
    assert torch.equal(torch.rand(2), expected)
    assert min(seconds) < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_the_engines_defaults(dtype: torch.dtype) -> None:
    """It builds models in inference mode, with another default dtype, some of them on the meta device."""
    selftest._inputs.cache_clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.inference_mode(), torch.device("meta"):
            assert self_test(SdpaKernel(), CPU, dtype, 64) is None
    finally:
        torch.set_default_dtype(before)

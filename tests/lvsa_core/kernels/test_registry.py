"""The choice of a kernel, what is said of those passed over, and what is said when there is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core import Pattern, TokenLayout
from lvsa_core.kernels import KERNELS, Kernel, KernelUnavailable, candidates, merge, select
from lvsa_core.kernels import registry as registry_module
from lvsa_core.kernels.cuda import unusable
from lvsa_core.kernels.sdpa import SdpaKernel

CPU = torch.device("cpu")


class Absent(SdpaKernel):
    """A kernel that never runs."""

    name = family = "absent"

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        return "it was never built"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
        raise AssertionError("a kernel that is not available was called")


class Wrong(SdpaKernel):
    """A kernel that runs and is wrong."""

    name = family = "wrong"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
        return torch.zeros_like(q)


@contextmanager
def registry(*first: Kernel) -> Iterator[None]:
    """Some kernels at the head of the registry."""
    others = dict(KERNELS)
    KERNELS.clear()
    KERNELS.update({kernel.name: kernel for kernel in first} | others)
    select.cache_clear()
    try:
        yield
    finally:
        KERNELS.clear()
        KERNELS.update(others)
        select.cache_clear()


@pytest.fixture
def two_first() -> Iterator[None]:
    with registry(Absent(), Wrong()):
        yield


def test_auto_takes_the_first_that_runs_and_is_right(two_first: None) -> None:
    found = select("auto", CPU, torch.float32, 128)
    assert found.kernel.name == "sdpa"
    reasons = dict(found.passed_over)
    assert reasons["absent"] == "it was never built"
    assert reasons["wrong"].startswith("its self-test is off by ")
    assert str(found).startswith("sdpa (passed over absent: it was never built; wrong: its self-test is off by ")
    assert str(found).endswith("; flash, flashinfer: it needs a CUDA device, not cpu)")


def test_a_family_and_one_kernel_by_name() -> None:
    assert str(select("sdpa", CPU, torch.float32, 128)) == "sdpa"
    assert select("sdpa-concatenated", CPU, torch.float32, 128).kernel is KERNELS["sdpa-concatenated"]
    assert all(kernel.name == name for name, kernel in KERNELS.items())
    assert list(dict.fromkeys(kernel.family for kernel in KERNELS.values())) == ["flash", "flashinfer", "sdpa"]


class WrongAtTimes(SdpaKernel):
    """A kernel that is wrong where a rank holds some of the keys, or the anchors are moved."""

    name = family = "wrong-at-times"

    def __init__(self, when: Callable[[Pattern, TokenLayout], bool]) -> None:
        self.when = when

    def attend(self, *given: Any, **more: Any) -> Tensor:
        return super().attend(*given, **more) * (2 if self.when(*given[3:5]) else 1)


@pytest.mark.parametrize(
    "when", [lambda pattern, layout: layout.kv_frames is not None, lambda pattern, layout: not pattern.plain]
)
def test_a_kernel_that_is_wrong_at_times_is_passed_over(when: Callable[[Pattern, TokenLayout], bool]) -> None:
    with registry(WrongAtTimes(when)):
        found = select("auto", CPU, torch.float32, 128)
    assert found.kernel.name == "sdpa" and found.passed_over[0][1].startswith("its self-test is off by ")


@pytest.mark.parametrize(("name", "reason"), [("absent", "it was never built"), ("wrong", "its self-test is off by ")])
def test_a_kernel_asked_for_is_not_replaced(two_first: None, name: str, reason: str) -> None:
    with pytest.raises(KernelUnavailable) as error:
        select(name, CPU, torch.bfloat16, 128)
    start = f"attention kernel {name!r} does not run for torch.bfloat16 with head size 128 on cpu ({name}: {reason}"
    assert str(error.value).startswith(start)
    assert str(error.value).endswith("); choose auto or switch LVSA off")


def test_a_family_that_does_not_run() -> None:
    with pytest.raises(KernelUnavailable) as error:
        select("flash", CPU, torch.bfloat16, 128)
    assert "(flash: it needs a CUDA device, not cpu); choose auto" in str(error.value)


def test_auto_lists_every_reason(two_first: None) -> None:
    with pytest.raises(KernelUnavailable) as error:
        select("auto", torch.device("meta"), torch.float32, 128)
    assert str(error.value).startswith(
        "no attention kernel for torch.float32 with head size 128 on meta (absent: it was"
    )
    assert "sdpa: it needs a CUDA device, not meta; " in str(error.value)
    assert "sdpa-concatenated: its self-test raised" in str(error.value)
    assert str(error.value).endswith("use a supported device or switch LVSA off")


def test_unknown_name() -> None:
    with pytest.raises(KernelUnavailable) as error:
        select("quick", CPU, torch.float32, 128)
    assert str(error.value) == "there is no attention kernel 'quick': choose one of auto, flash, flashinfer, sdpa"
    assert issubclass(KernelUnavailable, RuntimeError)


def test_kernels_are_left_out(two_first: None) -> None:
    assert [kernel.name for kernel in candidates("sdpa,-sdpa-ascend")] == ["sdpa", "sdpa-concatenated"]
    found = select("auto,-wrong, -flash,-flashinfer", CPU, torch.float32, 128)
    assert [name for name, _ in found.passed_over] == ["absent"] and found.name == "sdpa"
    with pytest.raises(KernelUnavailable, match=r"does not run for .* \(all are left out\); choose auto"):
        select("sdpa,-sdpa", CPU, torch.float32, 128)
    with pytest.raises(
        KernelUnavailable, match="there is no attention kernel 'quick': choose one of absent, wrong, flash"
    ):
        select("auto,-quick", CPU, torch.float32, 128)


class Poisoning(SdpaKernel):
    """Its error is one after which nothing runs on the device any more."""

    name = family = "poisoning"

    def attend(self, *given: Any, **more: Any) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")


def test_a_kernel_that_breaks_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other kernel is tried after it or blamed, and every later choice says the same."""
    monkeypatch.setattr(registry_module, "_broken", {})
    checks = iter([None, "illegal memory access"])
    monkeypatch.setattr(registry_module, "unusable", lambda device: next(checks))
    said = (
        "the attention kernel poisoning has put cpu out of use for this process (its self-test raised RuntimeError: "
        "CUDA error: an illegal memory access was encountered): leave it out with LVSA_SKIP_KERNELS=poisoning (in "
        "Python kernel='auto,-poisoning'), or choose another with LVSA_BACKEND, and start again"
    )
    with registry(Poisoning()):
        for choice in ("auto", "sdpa"):
            with pytest.raises(KernelUnavailable) as error:
                select(choice, CPU, torch.float32, 128)
            assert str(error.value) == said


def test_a_device_that_was_broken_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_broken", {})
    monkeypatch.setattr(registry_module, "unusable", lambda device: "device-side assert triggered")
    select.cache_clear()
    with pytest.raises(KernelUnavailable) as error:
        select("auto", CPU, torch.float32, 128)
    assert str(error.value) == (
        "cpu was out of use before any attention kernel ran (device-side assert triggered): start the process again"
    )


def test_a_merge_that_breaks_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried before any kernel uses it, so that none is blamed for it."""
    monkeypatch.setattr(registry_module, "_broken", {})
    checks = iter([None, "illegal memory access"])
    monkeypatch.setattr(registry_module, "unusable", lambda device: next(checks))
    monkeypatch.setattr(merge, "passed_over", lambda device: "RuntimeError: illegal memory access")
    with registry(Poisoning()):
        for choice in ("auto", "sdpa"):
            with pytest.raises(KernelUnavailable) as error:
                select(choice, CPU, torch.float32, 128)
            assert str(error.value) == (
                "Triton has put cpu out of use for this process (RuntimeError: illegal memory access), before any "
                "attention kernel ran: install the version of Triton that this PyTorch needs, or uninstall it, and "
                "start again"
            )


def test_whether_a_device_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unusable(CPU) is None

    def lost(*given: Any, **more: Any) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")

    monkeypatch.setattr(torch, "ones", lost)
    assert unusable(torch.device("cuda")) == "CUDA error: an illegal memory access was encountered"


def test_a_slow_merge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "passed_over", lambda device: "no C compiler")
    select.cache_clear()
    try:
        assert str(select("sdpa", CPU, torch.float32, 64)) == "sdpa (passed over Triton's merge: no C compiler)"
    finally:
        select.cache_clear()


def test_tested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("lvsa_core.kernels.registry.self_test", lambda *given: calls.append(given))
    select.cache_clear()
    try:
        for _ in range(3):
            select("sdpa", CPU, torch.float32, 72)
            select("sdpa", CPU, torch.bfloat16, 72)
        assert len(calls) == 2
    finally:
        select.cache_clear()

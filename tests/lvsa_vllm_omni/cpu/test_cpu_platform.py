"""The CPU platform by itself, without an engine: backends, memory, accelerators, the worker's output thread."""

import gc
import importlib.util
import mmap
import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lvsa_vllm_omni.cpu import detect
from lvsa_vllm_omni.hooks import HookError

pytestmark = [
    pytest.mark.slow,  # it imports the engine
    pytest.mark.skipif(importlib.util.find_spec("vllm_omni") is None, reason="needs vLLM-Omni"),
]


@pytest.fixture(scope="module")
def omni() -> Any:
    """The module of the platform, which vLLM-Omni imports as it asks for its platform."""
    importlib.import_module("vllm_omni.platforms")
    return importlib.import_module("lvsa_vllm_omni.cpu.omni")


@pytest.fixture
def registered_name(omni: Any) -> Iterator[str]:
    """A backend name that stands outside vLLM-Omni, as a plugin's does."""
    from vllm_omni.diffusion.attention.backends.registry import (
        DiffusionAttentionBackendEnum,
        register_diffusion_backend,
    )

    member = DiffusionAttentionBackendEnum.FLASH_ATTN_HUB
    register_diffusion_backend(member, omni.CPU_SDPA)
    yield member.name
    member.clear_override()


def test_the_default_backend_is_sdpa_and_attends(omni: Any) -> None:
    from vllm.utils.import_utils import resolve_obj_by_qualname

    assert omni.CpuOmniPlatform.get_diffusion_attn_backend_cls(None, 32, allow_trtllm_default=True) == omni.CPU_SDPA
    assert omni.CpuOmniPlatform.get_diffusion_attn_backend_cls("torch_sdpa", 32) == omni.CPU_SDPA
    backend = resolve_obj_by_qualname(omni.CPU_SDPA)
    query, key, value = (torch.randn(1, length, 2, 8) for length in (5, 7, 7))
    output = backend.get_impl_cls()(num_heads=2, head_size=8, softmax_scale=0.5).forward(query, key, value)
    weights = torch.softmax(0.5 * torch.einsum("bqhd,bkhd->bhqk", query, key), dim=-1)
    torch.testing.assert_close(output, torch.einsum("bhqk,bkhd->bqhd", weights, value))


@pytest.mark.parametrize("name", ["FLASH_ATTN", "cudnn_attn", "SAGE_ATTN"])
def test_a_backend_without_cpu_kernel_is_refused(omni: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name.upper()} .*CPU.*TORCH_SDPA"):
        omni.CpuOmniPlatform.get_diffusion_attn_backend_cls(name, 32)


def test_an_unknown_backend_is_refused(omni: Any) -> None:
    with pytest.raises(ValueError, match="NO_SUCH_ATTN"):
        omni.CpuOmniPlatform.get_diffusion_attn_backend_cls("NO_SUCH_ATTN", 32)


def test_a_registered_backend_is_taken(omni: Any, registered_name: str) -> None:
    assert omni.CpuOmniPlatform.get_diffusion_attn_backend_cls(registered_name, 32) == omni.CPU_SDPA


def test_memory_is_that_of_this_process(omni: Any) -> None:
    free, total = omni.CpuOmniPlatform.get_device_memory()
    assert 0 < free < total == omni.CpuOmniPlatform.get_device_total_memory()
    gc.collect()  # what earlier tests left is not given back meanwhile
    # Pages of its own: an allocator may take those that it has kept, which are resident already.
    block = torch.frombuffer(mmap.mmap(-1, 64 << 20), dtype=torch.uint8)
    omni.CpuOmniPlatform.reset_peak_memory_stats()
    before = omni.CpuOmniPlatform.max_memory_reserved()
    block.fill_(1)
    assert block.numel() * 0.9 < omni.CpuOmniPlatform.max_memory_allocated() - before < total
    assert omni.CpuOmniPlatform.memory_reserved() <= omni.CpuOmniPlatform.max_memory_reserved() + (1 << 20)


def test_an_accelerator_wins_over_lvsa_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm.platforms

    def broken() -> str:
        raise OSError("no driver")

    assert detect.find_accelerator({"cuda": lambda: None, "rocm": broken, "cpu": lambda: "CpuPlatform"}) is None
    probes = {"tpu": lambda: None, "cuda": lambda: "vllm.platforms.cuda.CudaPlatform"}
    assert detect.find_accelerator(probes) == "cuda"

    from lvsa_vllm_omni import cpu

    monkeypatch.setenv("LVSA_CPU", "1")
    monkeypatch.setattr(vllm.platforms, "builtin_platform_plugins", probes)
    warned: list[str] = []
    logger = SimpleNamespace(warning=lambda text, *values: warned.append(text % values))
    monkeypatch.setattr(vllm.logger, "init_logger", lambda name: logger)
    detect.accelerator_present.cache_clear()
    try:
        assert cpu.vllm_platform() is None and cpu.omni_platform() is None
    finally:
        detect.accelerator_present.cache_clear()
    assert len(warned) == 1 and "LVSA_CPU=1 is ignored" in warned[0] and "(cuda)" in warned[0]


def test_a_failed_output_reaches_the_engine_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing fails for one output, sending for another: the thread must go on, and nothing may stay pending."""
    from vllm_omni.diffusion.data import DiffusionOutput

    from lvsa_vllm_omni.cpu import worker

    sent: list[Any] = []

    def send(message: Any) -> None:
        if message.async_output_id == "unsent":
            raise OSError("queue is gone")
        sent.append(message)

    def pack(output: Any) -> None:
        if output.error == "unpackable":
            raise MemoryError("no shared memory")

    monkeypatch.setattr(worker, "pack_diffusion_output_shm", pack)
    process = SimpleNamespace(
        _async_output_queue=queue.Queue(),
        _async_output_done=threading.Condition(),
        _async_output_pending=3,
        _enqueue_result=send,
    )
    for name, error in (("bad", "unpackable"), ("unsent", None), ("good", None)):
        process._async_output_queue.put((DiffusionOutput(error=error), name, None))
    process._async_output_queue.put(None)
    worker.async_output_loop(process)
    assert [(message.async_output_id, message.error) for message in sent] == [
        ("bad", "Packing the output into shared memory failed: no shared memory"),
        ("good", None),
    ]
    assert sent[1].output is not None and process._async_output_pending == 0


def test_the_output_loop_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_omni.diffusion.worker.diffusion_worker import WorkerProc

    from lvsa_vllm_omni.cpu import worker
    from lvsa_vllm_omni.seam import replace_output_loop

    original = WorkerProc._async_output_loop
    while hasattr(original, "__lvsa__"):
        original = original.__lvsa__
    monkeypatch.setattr(WorkerProc, "_async_output_loop", original)
    replace_output_loop(worker.async_output_loop)
    replaced = WorkerProc._async_output_loop
    assert replaced.__lvsa__ is original and replaced.__name__ == original.__name__
    replace_output_loop(worker.async_output_loop)
    assert WorkerProc._async_output_loop is replaced
    monkeypatch.setattr(WorkerProc, "_async_output_loop", lambda self, stream: None)
    with pytest.raises(HookError, match=r"the installed vLLM-Omni has \(self, stream\) there: install vllm"):
        replace_output_loop(worker.async_output_loop)


def test_a_worker_is_built_on_what_the_cpu_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_omni.diffusion.attention import layer
    from vllm_omni.diffusion.worker.diffusion_worker import DiffusionWorker

    from lvsa_vllm_omni.cpu import worker
    from lvsa_vllm_omni.cpu.attention import CpuSdpaBackend

    done: list[Any] = []
    monkeypatch.setattr(layer, "SDPABackend", layer.SDPABackend)
    monkeypatch.setattr(worker, "replace_output_loop", done.append)
    monkeypatch.setattr(worker, "register_ring_kernel", lambda: done.append("ring"))
    monkeypatch.setattr(DiffusionWorker, "__init__", lambda self: done.append("worker"))
    worker.CpuDiffusionWorker()
    assert layer.SDPABackend is CpuSdpaBackend and done == [worker.async_output_loop, "ring", "worker"]


def test_ring_attention_has_its_kernel() -> None:
    from lvsa_vllm_omni.cpu import worker

    worker.register_ring_kernel()
    worker.register_ring_kernel()
    query, key, value = (torch.randn(1, 2, length, 8) for length in (5, 7, 7))
    output, lse = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True, scale=0.5)[:2]
    logits = 0.5 * query @ key.transpose(-1, -2)
    torch.testing.assert_close(lse, logits.logsumexp(-1))
    torch.testing.assert_close(output, logits.softmax(-1) @ value)

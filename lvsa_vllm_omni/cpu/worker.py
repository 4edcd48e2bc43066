"""The diffusion worker on the CPU, and what a worker's process needs before its first request."""

import functools
import inspect
from typing import Any

import torch
from vllm.logger import init_logger
from vllm_omni.diffusion.attention import layer
from vllm_omni.diffusion.ipc import pack_diffusion_output_shm
from vllm_omni.diffusion.worker.diffusion_worker import DiffusionWorker, WorkerProc

from lvsa_vllm_omni.cpu.attention import CpuSdpaBackend

logger = init_logger("vllm.lvsa.cpu")

_RING_OP = "_scaled_dot_product_efficient_attention"
_libraries: list[torch.library.Library] = []  # a Library takes its kernels away when it is collected


class CpuDiffusionWorker(DiffusionWorker):
    """vLLM-Omni's own worker, built in every process that runs a model before the thread that sends results starts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        replace_async_output_loop()
        register_ring_kernel()
        replace_float32_backend()
        super().__init__(*args, **kwargs)


def async_output_loop(self: Any) -> None:
    """Send finished outputs to the engine until the queue gives None; runs in a thread of a worker process.

    Each item is (output, id, event). The output is packed into shared memory and announced as OUTPUT_READY, or the
    error is; then one pending output less is counted, whatever happened.
    """
    from vllm_omni.diffusion.data import AsyncDiffusionOutput, AsyncOutputKind  # older releases have no such loop

    send = getattr(self, "_enqueue_result", None) or self.result_mq.enqueue
    done = getattr(self, "_async_output_done", None)  # older releases do not count
    while (item := self._async_output_queue.get()) is not None:
        output, output_id, _ = item
        try:
            pack_diffusion_output_shm(output)
            message = AsyncDiffusionOutput(kind=AsyncOutputKind.OUTPUT_READY, async_output_id=output_id, output=output)
        except Exception as error:
            logger.exception("Packing output %s into shared memory failed; the request gets the error.", output_id)
            message = AsyncDiffusionOutput(
                kind=AsyncOutputKind.OUTPUT_READY,
                async_output_id=output_id,
                error=f"Packing the output into shared memory failed: {error}",
            )
        try:
            send(message)
        except Exception:
            # The thread must live on, or every later request waits for ever.
            logger.exception("Sending output %s to the engine failed.", output_id)
        finally:
            if done is not None:
                with done:
                    self._async_output_pending = max(0, self._async_output_pending - 1)
                    done.notify_all()
        del item, output, message  # a decoded video is large, and the next get() may wait for long


def replace_async_output_loop() -> None:
    """Let several workers send results without an accelerator; a second call does nothing.

    Target: vllm_omni.diffusion.worker.diffusion_worker.WorkerProc._async_output_loop, in this process only.
    Why: it makes a stream on torch.accelerator.current_accelerator(), which fails on the CPU; the thread dies and the
        first request waits for ever.
    How: the same loop without the stream. Neither the worker class nor the executor class can carry it: the executor
        names WorkerProc in the call that spawns the process.
    Remove when: vLLM-Omni takes the stream from its platform, or asks whether there is an accelerator.
    """
    original = getattr(WorkerProc, "_async_output_loop", None)
    if original is None or hasattr(original, "__lvsa__"):
        return  # older releases send results from the main loop, which needs no stream
    if list(inspect.signature(original).parameters) != ["self"]:
        raise RuntimeError(
            f"The CPU platform replaces WorkerProc._async_output_loop(self), but the installed vLLM-Omni has "
            f"{inspect.signature(original)} there. Install a release that this plugin names as supported."
        )
    replacement = functools.wraps(original)(async_output_loop)
    replacement.__lvsa__ = original  # type: ignore[attr-defined]
    WorkerProc._async_output_loop = replacement


def replace_float32_backend() -> None:
    """Let float32 be computed on the CPU; a second call does nothing.

    Target: vllm_omni.diffusion.attention.layer.SDPABackend, in this process only.
    Why: up to 0.28 a layer sends every call in float32 to a backend of that name, which no platform chooses, and whose
        dispatch by platform knows no branch for one from outside its tree.
    How: the name stands for the CPU platform's own SDPA in the module that builds the layers.
    Remove when: no supported release does so.
    """
    layer.SDPABackend = CpuSdpaBackend


def register_ring_kernel() -> None:
    """Give ring attention its operation on the CPU; does nothing where PyTorch has it.

    Target: aten::_scaled_dot_product_efficient_attention on the CPU, in this process only.
    Why: the engine's ring needs the log-sum-exp and calls this operation, which PyTorch has for accelerators alone.
    How: a kernel registered for it, which takes the same from _scaled_dot_product_flash_attention_for_cpu.
    Remove when: PyTorch has the operation on the CPU, or the engine's ring calls another one there.
    """
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{_RING_OP}", "CPU"):
        return
    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl(_RING_OP, _efficient_attention_cpu)
    _libraries.append(library)


def _efficient_attention_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_bias: torch.Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend; tensors [B, H, S, D]. Returns the output, the log-sum-exp [B, H, S], and two unused random states."""
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_bias, scale=scale
    )
    unused = torch.zeros((), dtype=torch.int64)
    return output, lse, unused, unused

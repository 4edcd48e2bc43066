"""The diffusion worker on the CPU, and what a worker's process needs before its first request."""

from typing import Any

import torch
from vllm.logger import init_logger
from vllm_omni.diffusion.ipc import pack_diffusion_output_shm
from vllm_omni.diffusion.worker.diffusion_worker import DiffusionWorker

from lvsa_vllm_omni.cpu.attention import CpuSdpaBackend
from lvsa_vllm_omni.seam import replace_float32_backend, replace_output_loop

logger = init_logger("vllm.lvsa.cpu")

_RING_OP = "_scaled_dot_product_efficient_attention"
_libraries: list[torch.library.Library] = []  # a Library takes its kernels away when it is collected


class CpuDiffusionWorker(DiffusionWorker):
    """vLLM-Omni's own worker, built in every process that runs a model before the thread that sends results starts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        replace_output_loop(async_output_loop)
        replace_float32_backend(CpuSdpaBackend)
        register_ring_kernel()
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


def register_ring_kernel() -> None:
    """Give ring attention its operation on the CPU, in this process; does nothing where PyTorch has it.

    The engine's ring needs the log-sum-exp and calls ``aten::_scaled_dot_product_efficient_attention``, which PyTorch
    has for accelerators alone; what it has for the CPU gives the same. It can go when PyTorch has the operation on the
    CPU, or the ring calls another one there.
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

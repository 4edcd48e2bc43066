"""The engine's worker in this process, for releases that start a process for it even on a single device."""

from __future__ import annotations

from typing import Any

from vllm.distributed import parallel_state
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm_omni.diffusion.data import DiffusionOutput
from vllm_omni.diffusion.executor.multiproc_executor import MultiprocDiffusionExecutor
from vllm_omni.diffusion.worker.diffusion_worker import WorkerWrapperBase
from vllm_omni.platforms import current_omni_platform


class InlineExecutor(MultiprocDiffusionExecutor):
    """What later releases have as ``UniProcDiffusionExecutor``: the same calls without the queues between.

    Served requests, and those of several ranks, run with the engine's own executor.
    """

    uses_multiproc = False

    def _init_executor(self) -> None:
        self._closed = False
        self._worker: Any = WorkerWrapperBase(
            gpu_id=0,
            od_config=self.od_config,
            worker_extension_cls=self.od_config.worker_extension_cls,
            custom_pipeline_args=getattr(self.od_config, "custom_pipeline_args", None),
            base_worker_class=resolve_obj_by_qualname(current_omni_platform.get_diffusion_worker_cls()),
        )

    def _ensure_open(self) -> None:
        if self._closed:
            raise RuntimeError("DiffusionExecutor is closed.")

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        unique_reply_rank: int | None = None,
        exec_all_ranks: bool = False,
    ) -> Any:
        self._ensure_open()
        try:
            result = self._worker.execute_method(method, *args, **(kwargs or {}))
        except Exception as error:
            if method != "execute_model":
                raise
            result = DiffusionOutput(error=str(error))  # as a worker's process answers
        return result if unique_reply_rank is not None else [result]

    def check_health(self) -> None:
        self._ensure_open()

    def register_failure_callback(self, callback: Any) -> None:
        """Nothing here fails but by an exception."""

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._worker.shutdown()
            parallel_state._PP = None  # the engine puts its group there, and leaves it
            del self._worker

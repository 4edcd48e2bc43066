"""The CPU platform as vLLM-Omni sees it: device, attention backend, worker class, torch.compile."""

import sysconfig
from pathlib import Path

import torch
from vllm.logger import init_logger
from vllm_omni.platforms.interface import OmniPlatform, OmniPlatformEnum

from lvsa_vllm_omni.cpu.platform import CpuVllmPlatform

logger = init_logger("vllm.lvsa.cpu")

CPU_SDPA = "lvsa_vllm_omni.cpu.attention.CpuSdpaBackend"


class CpuOmniPlatform(OmniPlatform, CpuVllmPlatform):
    """A platform whose devices are processes: every rank computes on ``torch.device("cpu")``, over gloo."""

    _omni_enum = OmniPlatformEnum.OOT
    # vLLM's CpuPlatform names its variable for NUMA nodes; vLLM-Omni writes the ranks of a stage into it. A name of its
    # own, and without the LVSA_ prefix: it is no setting of this plugin.
    device_control_env_var = "OMNI_CPU_VISIBLE_DEVICES"
    # OmniPlatform stands first and declares these without a body.
    get_free_memory = CpuVllmPlatform.get_free_memory
    get_device_memory = CpuVllmPlatform.get_device_memory
    memory_reserved = CpuVllmPlatform.memory_reserved

    @classmethod
    def get_diffusion_attn_backend_cls(
        cls, selected_backend: str | None, head_size: int, allow_trtllm_default: bool = False
    ) -> str:
        """Return the path of the attention backend: PyTorch's SDPA by default, or the user's choice.

        A name that was registered from outside vLLM-Omni is taken at its word; of the engine's own names only
        TORCH_SDPA has a kernel for the CPU.

        Raises:
            ValueError: the backend is unknown, or has no kernel for the CPU.
        """
        if selected_backend is None:
            return CPU_SDPA
        from vllm_omni.diffusion.attention.backends.registry import DiffusionAttentionBackendEnum

        name = selected_backend.upper()
        path = DiffusionAttentionBackendEnum[name].get_path()
        if not path.startswith("vllm_omni."):
            if hasattr(cls, "validate_diffusion_attn_backend"):
                cls.validate_diffusion_attn_backend(name)
            return path
        if name == "TORCH_SDPA":
            return CPU_SDPA
        raise ValueError(
            f"The {name} diffusion attention backend has no kernel for the CPU (LVSA_CPU=1). "
            "Select TORCH_SDPA, or leave the choice to the platform."
        )

    @classmethod
    def get_diffusion_worker_cls(cls) -> str:
        """Return the path of the worker class; importing it prepares the worker's process."""
        return "lvsa_vllm_omni.cpu.worker.CpuDiffusionWorker"

    @classmethod
    def get_default_stage_config_path(cls) -> str:
        """Return the engine's folder of stages, where older releases look for what a model may have."""
        return "vllm_omni/deploy"

    @classmethod
    def get_torch_device(cls, local_rank: int | None = None) -> torch.device:
        """Return the CPU, whatever the rank."""
        return torch.device("cpu")

    @classmethod
    def get_device_count(cls) -> int:
        """Return how many ranks may run: more than anyone starts on one machine, as they are only processes."""
        return 64

    @classmethod
    def get_device_version(cls) -> str | None:
        """Return None: there is no runtime with a version."""
        return None

    @classmethod
    def synchronize(cls) -> None:
        """Do nothing: the CPU computes in order."""

    @classmethod
    def supports_torch_inductor(cls) -> bool:
        """Say whether torch.compile can build CPU kernels here: it needs a C++ compiler and Python's headers."""
        missing = missing_for_inductor()
        if missing is not None:
            logger.info_once("torch.compile is off on the CPU: %s.", missing)
        return missing is None


def missing_for_inductor() -> str | None:
    """Say what torch.compile lacks to build CPU kernels, or None. It finds its compiler itself: $CXX, else g++."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return "no C++ compiler found (install g++, or name one in CXX)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers are missing (install python3-dev)"
    return None

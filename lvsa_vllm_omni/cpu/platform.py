"""The CPU platform as vLLM sees it."""

from vllm.platforms.cpu import CpuPlatform
from vllm.platforms.interface import PlatformEnum

from lvsa_vllm_omni.cpu.memory import HostMemory


class CpuVllmPlatform(HostMemory, CpuPlatform):
    """vLLM's own CPU platform, for wheels that carry no CPU kernels.

    Out of tree, and not ``CPU``: every custom operation of vLLM then takes its native PyTorch form, and no layer binds
    a kernel of ``torch.ops._C``, which an accelerator's wheel does not have on a machine without its driver.
    """

    _enum = PlatformEnum.OOT

    @classmethod
    def import_kernels(cls) -> None:
        """Import nothing: there are no kernels to import."""

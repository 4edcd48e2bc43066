"""Is there an accelerator? Asked of vLLM's own probes, so that the answer is the one the engine would act on."""

import logging
from collections.abc import Callable, Mapping
from functools import cache

import torch


@cache
def accelerator_present() -> bool:
    """Say whether this machine has an accelerator, and warn once if so that LVSA_CPU is not followed."""
    # Here and not above: vLLM calls us while it is imported, and were this module the first to import it, vLLM would
    # find it half made and go on without a platform.
    from vllm.logger import init_logger
    from vllm.platforms import builtin_platform_plugins

    found = find_accelerator(builtin_platform_plugins)
    if found is not None:
        init_logger("vllm.lvsa.cpu").warning(
            "LVSA_CPU=1 is ignored: this machine has an accelerator (%s), and vLLM-Omni runs there. "
            "Unset LVSA_CPU to silence this line.",
            found,
        )
    return found is not None


def find_accelerator(probes: Mapping[str, Callable[[], str | None]]) -> str | None:
    """Name the accelerator that vLLM or PyTorch would use, or None.

    vLLM's probes ask NVML, amdsmi or the installed runtime; none creates a context on the device, so processes can
    still be forked and the memory of the device stays free.
    """
    for name, probe in probes.items():
        if name == "cpu":
            continue
        try:
            if probe() is not None:
                return name
        except Exception:  # what vLLM does with a probe that fails: this accelerator is not there
            logging.getLogger("vllm.lvsa.cpu").debug("The probe for %s failed.", name, exc_info=True)
    # Accelerators that come as plugins of PyTorch and of vLLM (Ascend, Gaudi, ...) have no probe above. CUDA and ROCm
    # have, and PyTorch's own question would initialise their runtime; vLLM-Omni does not run on Apple's GPU.
    device = torch.accelerator.current_accelerator()
    if device is not None and device.type not in ("cuda", "mps") and torch.accelerator.is_available():
        return device.type
    return None

"""Entry points of the CPU platform, and the one reader of LVSA_CPU outside the settings object.

vLLM calls the two entry points while it is itself being imported, in every process and on every machine. So this file
imports neither torch nor vLLM nor pydantic, and costs nothing where LVSA_CPU is not set.
"""

import os

__all__ = ["cpu_requested", "omni_platform", "vllm_platform"]

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no", ""})


def cpu_requested() -> bool:
    """Say whether LVSA_CPU asks for the CPU platform; takes what pydantic takes for a boolean.

    Raises:
        ValueError: LVSA_CPU has a value that is no boolean.
    """
    value = os.environ.get("LVSA_CPU", "")
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise ValueError(
        f"LVSA_CPU={value!r} is not a boolean. Set LVSA_CPU=1 to run vLLM-Omni on the CPU "
        "(also accepted: true, yes, on, t, y), or LVSA_CPU=0 or nothing to leave the platform alone."
    )


def vllm_platform() -> str | None:
    """Name the CPU platform for vLLM, or None where it was not asked for or an accelerator is present."""
    return "lvsa_vllm_omni.cpu.platform.CpuVllmPlatform" if _active() else None


def omni_platform() -> str | None:
    """Name the CPU platform for vLLM-Omni, or None where it was not asked for or an accelerator is present."""
    return "lvsa_vllm_omni.cpu.omni.CpuOmniPlatform" if _active() else None


def _active() -> bool:
    try:
        if not cpu_requested():
            return False
    except ValueError as error:
        # vLLM logs an Exception of a platform plugin at DEBUG and goes on without it: the user would read "Failed to
        # infer device type" instead of what is wrong. SystemExit passes through.
        raise SystemExit(str(error)) from error
    from lvsa_vllm_omni.cpu.detect import accelerator_present

    if accelerator_present():
        return False
    # A library of vLLM's quantization starts two Python processes at import, in every process of the engine, to build
    # CUDA kernels that nothing here can run. They took half of the start-up time on two cores.
    os.environ.setdefault("HUMMING_DISABLE_PARALLEL_BUILD", "1")
    return True

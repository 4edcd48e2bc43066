"""What the installed vLLM-Omni can do, asked of itself: a test of something else is skipped with the reason."""

from __future__ import annotations

import importlib.util
from functools import cache


@cache
def has_module(name: str) -> bool:
    """Whether the engine has a module, which is not imported; its packages are."""
    try:
        return importlib.util.find_spec(f"vllm_omni.{name}") is not None
    except ModuleNotFoundError:
        return False


@cache
def runs_one_device_inline() -> bool:
    """Whether an engine on one device lives in the process that starts it."""
    return has_module("diffusion.executor.uniproc_executor")


@cache
def diffusers_has(module: str) -> bool:
    """Whether the installed diffusers, which the engine pins, has a model; without it no checkpoint can be written."""
    return importlib.util.find_spec(f"diffusers.models.transformers.{module}") is not None

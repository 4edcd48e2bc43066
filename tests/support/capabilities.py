"""What the installed vLLM-Omni can do, asked of itself: a test of something else is skipped with the reason."""

from __future__ import annotations

import importlib.util
import inspect
from functools import cache
from typing import Any


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


@cache
def float32_goes_round_the_choice() -> bool:
    """Whether a layer sends float32 to PyTorch's SDPA, whatever was chosen; a layer that may be told to need not."""
    from vllm_omni.diffusion.attention.layer import Attention

    return "allow_fp32_fallback" not in inspect.signature(Attention.__init__).parameters


def computing(layer: Any, dtype: str) -> Any:
    """The implementation that an attention layer computes a call of this data type with."""
    return layer.sdpa_fallback if dtype == "float32" and float32_goes_round_the_choice() else layer.attention

"""What the installed vLLM-Omni can do, asked of itself: a test of something else is skipped with the reason."""

from __future__ import annotations

import importlib.util
import inspect
from functools import cache
from pathlib import Path
from typing import Any

#: Why tests of batches are skipped.
ONE_AT_A_TIME = "this engine makes one video of Wan at a time"


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
def batches_requests() -> bool:
    """Whether the engine computes several requests for a video of Wan together, not one after another."""
    from vllm_omni.diffusion.models.wan2_2.pipeline_wan2_2 import Wan22Pipeline

    return bool(getattr(Wan22Pipeline, "supports_request_batch", False))


@cache
def has_pipeline(name: str) -> bool:
    """Whether the engine knows a pipeline by this name."""
    from vllm_omni.diffusion.registry import DiffusionModelRegistry

    return name in DiffusionModelRegistry.get_supported_archs()


@cache
def drops_quantisation_it_has_not() -> bool:
    """Whether a layer whose attention cannot quantise keys and values warns and goes on, and does not refuse."""
    from vllm_omni.diffusion.attention.layer import Attention

    return "KV quantization will be disabled" in inspect.getsource(Attention)


@cache
def tea_cache_knows(transformer: str) -> bool:
    """Whether TeaCache runs with a class of transformers."""
    from vllm_omni.diffusion.cache.teacache.extractors import EXTRACTOR_REGISTRY

    return transformer in EXTRACTOR_REGISTRY


@cache
def finds_stages_of(checkpoint: Path) -> bool:
    """Whether the engine knows the stages of a checkpoint by itself, as a runtime without a head must."""
    from vllm_omni.entrypoints import utils

    load = getattr(utils, "load_stage_configs_from_model", None)
    if load is None:  # newer ones make stages for every pipeline
        return True
    asked = {"trust_remote_code": None} if "trust_remote_code" in inspect.signature(load).parameters else {}
    found = load(str(checkpoint), **asked)
    return bool(found[0] if isinstance(found, tuple) else found)


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

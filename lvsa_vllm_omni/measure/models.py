"""The numbers of a model from configs/, without the engine and without pydantic."""

from __future__ import annotations

import sys
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.shape import Shape

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def model_facts(name: str) -> dict[str, Any]:
    """The table of ``configs/NAME.toml``."""
    try:
        folder: Any = resources.files(import_module("lvsa_vllm_omni.configs"))
    except ModuleNotFoundError:  # a checkout that is not installed
        folder = Path(__file__).parents[2] / "configs"
    return tomllib.loads((folder / f"{name}.toml").read_text("utf-8"))


def model_shape(name: str) -> Shape:
    """The shape of a model's transformer, from the table ``[shape]`` of ``configs/NAME.toml``."""
    table = model_facts(name)["shape"]
    return Shape(**{"kv_heads": table["heads"], "hidden": table["heads"] * table["head_size"], **table})

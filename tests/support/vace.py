"""VACE: a tiny Wan with a transformer that has blocks of control beside its own, of which no checkpoint is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch


def vace_transformer(config: dict[str, Any], layers: tuple[int, ...]) -> Any:
    """diffusers' VACE transformer of the sizes of Wan's, with random weights that count; ``layers`` have control."""
    from diffusers import WanVACETransformer3DModel

    from lvsa_vllm_omni.tiny.wan import _scale_up

    shared = {name: value for name, value in config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    transformer = WanVACETransformer3DModel(**shared, vace_layers=list(layers), vace_in_channels=96).eval()
    _scale_up(transformer)
    return transformer


def write_vace(wan: Path, folder: Path) -> Path:
    """A copy of a tiny Wan checkpoint with such a transformer, whose first block has control."""
    shutil.copytree(wan, folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    shutil.rmtree(folder / "transformer")
    vace_transformer(config, layers=(0,)).save_pretrained(folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text())
    changed = {"_class_name": "WanVACEPipeline", "transformer": ["diffusers", "WanVACETransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps({**index, **changed}))
    return folder

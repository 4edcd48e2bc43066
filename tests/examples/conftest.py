"""The script under test, and a folder with the configs of a checkpoint for what needs no weights."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "offline_lvsa.py"


@pytest.fixture(scope="session")
def offline_lvsa() -> ModuleType:
    """`examples/offline_lvsa.py` as a module."""
    spec = importlib.util.spec_from_file_location("offline_lvsa", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["offline_lvsa"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The configs of Wan 2.1 1.3B as they stand in its diffusers checkpoint, shortened."""
    folder = tmp_path / "checkpoint"
    configs = {
        "model_index.json": {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]},
        "transformer/config.json": {
            "_class_name": "WanTransformer3DModel",
            "in_channels": 16,
            "num_attention_heads": 12,
            "num_layers": 30,
            "patch_size": [1, 2, 2],
        },
        "vae/config.json": {"_class_name": "AutoencoderKLWan", "z_dim": 16},
    }
    for name, value in configs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return folder

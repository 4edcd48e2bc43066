"""The script under test, and a folder with the configs of a checkpoint for what needs no weights."""

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lvsa_vllm_omni.offline import VideoSettings
from lvsa_vllm_omni.presets import load_preset
from lvsa_vllm_omni.settings import LvsaSettings

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


@pytest.fixture
def clean_environment() -> Iterator[None]:
    """No LVSA variables but what a test sets, and none left behind by the script."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.upper().startswith("LVSA_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def settings() -> VideoSettings:
    """Settings of one video beyond the training length."""
    return VideoSettings(
        model="/models/wan",
        family="wan",
        preset="wan2.1-1.3b",
        prompt="A cat, on a mat!",
        negative_prompt=None,
        seed=42,
        frames=321,
        height=480,
        width=832,
        steps=50,
        guidance=5.0,
        fps=16.0,
        flow_shift=3.0,
        backend="auto",
        lvsa={},
        plan=LvsaSettings().plan_arguments(load_preset("wan")),
        engine={},
    )

"""The settings of a video, as a batch has them."""

import pytest

from lvsa_vllm_omni.offline import VideoSettings
from lvsa_vllm_omni.presets import load_preset
from lvsa_vllm_omni.settings import LvsaSettings


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

"""What settings say a second time is what the presets and the knobs say."""

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from lvsa_core.grid import MOST_FRAMES
from lvsa_core.knobs import Knobs
from lvsa_vllm_omni.fields import meanings
from lvsa_vllm_omni.presets import load_preset
from lvsa_vllm_omni.settings import LvsaSettings

DIFFUSERS = Path(__file__).parents[2] / "docs" / "diffusers.md"
NAMES = {field.name for field in fields(LvsaSettings)} - {"auto_keyframes", "rotate_keyframes", "expand_window"}
BOTH = sorted({field.name for field in fields(Knobs)} & NAMES)


def test_training_lengths_are_those_of_the_presets() -> None:
    """Of the sentence about the setting, and of the page about diffusers."""
    told = dict(
        re.findall(r"(Wan|TI2V-5B|HunyuanVideo 1\.5|Cosmos 3) (\d+)", meanings(LvsaSettings)["reference_latent_frames"])
    )
    presets = {
        "Wan": "wan",
        "TI2V-5B": "wan2.2-ti2v-5b",
        "HunyuanVideo 1.5": "hunyuan-video-1.5",
        "Cosmos 3": "cosmos3",
    }
    lengths = {title: str(load_preset(name).reference_latent_frames) for title, name in presets.items()}
    assert told == lengths
    rows = [line for line in DIFFUSERS.read_text("utf-8").splitlines() if line.startswith("| ")]
    for title, length in lengths.items():
        assert any(title in row and re.search(rf"\b{length}\b", row) for row in rows), title


@pytest.mark.parametrize(("knob", "setting"), [*zip(BOTH, BOTH, strict=True), ("riflex_s", "riflex_scale")])
def test_a_number_is_a_setting_where_it_is_a_knob(knob: str, setting: str) -> None:
    """Both have their ranges, as ``lvsa_core`` imports no pydantic."""
    needs = {"auto_keyframes": False} if knob == "key_frame_interval" else {}

    def accepted(kind: Any, name: str, value: float) -> bool:
        try:
            kind(**{name: value, **needs})
        except ValueError:
            return False
        return True

    ends = (-math.inf, -101, -100, -1, 100, 101, MOST_FRAMES, MOST_FRAMES + 1, 2**31, math.inf, math.nan)
    for value in (*ends, -0.5, 0, 0.5, 1, 2):
        assert accepted(Knobs, knob, value) == accepted(LvsaSettings, setting, value), value

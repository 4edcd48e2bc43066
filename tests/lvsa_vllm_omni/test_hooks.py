"""Families: what the plugin reads from a transformer's call."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lvsa_core import FrameGrid
from lvsa_vllm_omni.hooks import SPECS, WAN, ImpossibleRequest, LayoutMismatch
from lvsa_vllm_omni.seam import read_arguments
from lvsa_vllm_omni.settings import FAMILIES

TRANSFORMER = SimpleNamespace(config=SimpleNamespace(patch_size=(1, 2, 2), rope_max_seq_len=1024))


def latents(*shape: int) -> dict[str, Any]:
    return {"hidden_states": torch.empty(shape, device="meta")}


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((1, 16, 21, 60, 104), FrameGrid(21, 1560)),
        ((1, 16, 81, 60, 104), FrameGrid(81, 1560)),
        ((2, 16, 41, 90, 160), FrameGrid(41, 3600)),
        ((1, 48, 31, 44, 80), FrameGrid(31, 880)),
        ((1, 16, 7, 9, 11), FrameGrid(7, 20)),
    ],
)
def test_the_grid_of_wan(shape: tuple[int, ...], grid: FrameGrid) -> None:
    assert WAN.grid(TRANSFORMER, latents(*shape)) == grid


def test_what_is_no_video_is_a_mismatch() -> None:
    with pytest.raises(LayoutMismatch, match=r"hidden_states has shape \[1, 16, 60, 104\]"):
        WAN.grid(TRANSFORMER, latents(1, 16, 60, 104))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 16, 25, 1, 8), "a video of 1 latent rows .* cannot be made: the model takes 2 to 2048"),
        ((1, 16, 25, 8, 2050), "a video of 2050 latent columns .* cannot be made: the model takes 2 to 2048"),
        ((1, 16, 1025, 8, 8), "a video of 1025 latent frames cannot be made: the model takes 1 to 1024"),
    ],
)
def test_an_impossible_video_is_refused(shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ImpossibleRequest, match=sentence):
        WAN.grid(TRANSFORMER, latents(*shape))


def test_every_family_has_a_setting() -> None:
    assert set(SPECS) <= set(FAMILIES)
    assert all(spec.setting == f"LVSA_{name.upper()}_HOOK" and spec.name == name for name, spec in SPECS.items())


class Transformer:
    def forward(self, hidden_states: Any, timestep: Any, other: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "found"),
    [
        (("h", "t"), {}, {"hidden_states": "h", "timestep": "t"}),
        (("h",), {"timestep": "t", "other": 1}, {"hidden_states": "h", "timestep": "t"}),
        ((), {"hidden_states": "h"}, {"hidden_states": "h"}),
    ],
)
def test_arguments_by_position_or_name(args: Any, kwargs: Any, found: dict[str, Any]) -> None:
    assert read_arguments(Transformer, WAN, args, kwargs) == found

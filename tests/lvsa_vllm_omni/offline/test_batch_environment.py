"""LVSA's variables for the engine: what the caller set stays, a flag wins, the baseline has none."""

import json
from typing import Any

import pytest

from lvsa_vllm_omni.fields import schemas
from lvsa_vllm_omni.hooks import family_names, hook_field
from lvsa_vllm_omni.offline.environment import decisive_settings, dense_environment, sparse_environment
from lvsa_vllm_omni.settings import LvsaSettings

SET = {"PATH": "/bin", "LVSA_CPU": "1"}


def test_the_baseline_has_no_lvsa_variable_but_the_platform() -> None:
    environ = {**SET, "LVSA_ENABLE": "1", "lvsa_wan_hook": "1", "LVSA_CONFIG": "{}", "LVSA_AUTO": "1", "XLVSA_": "x"}
    assert dense_environment(environ) == {**SET, "XLVSA_": "x"}


@pytest.mark.parametrize("family", ["wan", "hunyuan", "cosmos3"])
def test_the_familys_hook_is_switched_on(family: Any) -> None:
    assert sparse_environment(SET, family, {}) == {**SET, f"LVSA_{family.upper()}_HOOK": "1"}


@pytest.mark.parametrize(
    "switch",
    [{"LVSA_ENABLE": "1"}, {"LVSA_AUTO": "true"}, {"LVSA_WAN_HOOK": "0"}, {"LVSA_CONFIG": '{"auto": true}'}],
)
def test_the_callers_own_switch_stays(switch: dict[str, str]) -> None:
    assert sparse_environment({**SET, **switch}, "wan", {"backend": None}) == {**SET, **switch}


def test_a_flag_wins_over_variable_and_config() -> None:
    config = {"sparsity_scale": 0.75, "window_size": 8, "rotate_keyframes": True}
    environ = {**SET, "LVSA_BACKEND": "flash", "lvsa_backend": "flash", "LVSA_CONFIG": json.dumps(config)}
    flags = {"backend": "sdpa", "sparsity_scale": 0.5, "rotate_keyframes": False, "reference_latent_frames": None}
    result = sparse_environment(environ, "wan", flags)
    assert json.loads(result.pop("LVSA_CONFIG")) == {"window_size": 8}
    assert result == {
        **SET,
        "LVSA_BACKEND": "sdpa",
        "LVSA_SPARSITY_SCALE": "0.5",
        "LVSA_ROTATE_KEYFRAMES": "0",
        "LVSA_WAN_HOOK": "1",
    }


def test_a_broken_config_is_left_to_the_settings() -> None:
    assert sparse_environment({**SET, "LVSA_CONFIG": "{"}, "wan", {})["LVSA_CONFIG"] == "{"


@pytest.mark.usefixtures("clean_environment")
def test_only_settings_that_change_a_video_count() -> None:
    def counted(**values: Any) -> dict[str, Any]:
        return decisive_settings(LvsaSettings(**values), "wan")

    assert counted(enable=True) == counted(wan_hook=True, mem_log=True, strict=True, mask_log="once", cpu=True) == {}
    assert counted(wan_hook=True, window_size=8, rotate_keyframes=False) == {
        "window_size": 8,
        "rotate_keyframes": False,
    }
    assert counted(auto=True) == {"auto": True}


def test_every_setting_is_either_counted_or_left_out_on_purpose() -> None:
    """A new setting is counted until somebody decides otherwise here and in the module."""
    from lvsa_vllm_omni.offline import environment

    assert {*schemas(LvsaSettings)} >= environment._NOT_DECISIVE
    hooks = {hook_field(name) for name in family_names()}
    assert {*schemas(LvsaSettings)} - environment._NOT_DECISIVE - hooks == {
        "window_size",
        "n_first_frames",
        "auto_keyframes",
        "key_frame_interval",
        "rotate_keyframes",
        "expand_window",
        "sparsity_scale",
        "reference_latent_frames",
        "vae_temporal_factor",
        "riflex_scale",
        "anchor_positions",
        "anchor_boost",
        "rotate_after",
        "recipe",
        "tiled_decoding",
    }

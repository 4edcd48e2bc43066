"""What a request may ask of LVSA: the settings' names, types and ranges, and a sentence for all else."""

from dataclasses import fields
from typing import Any

import pytest

from lvsa_vllm_omni.presets import load_preset
from lvsa_vllm_omni.request_knobs import KNOBS, chosen
from lvsa_vllm_omni.settings import LvsaSettings

SETTINGS = LvsaSettings(window_size=8, sparsity_scale=0.75)


def test_nothing_asked_is_the_servers_own() -> None:
    assert chosen(SETTINGS, None) == (SETTINGS, None)
    assert chosen(SETTINGS, {}).settings == SETTINGS


def test_a_request_goes_before_the_server_and_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSA_WINDOW_SIZE", "40")  # was read when the server started
    found = chosen(SETTINGS, {"sparsity_scale": 0.5, "rotate_keyframes": False, "enabled": True})
    assert found.enabled is True
    assert (found.settings.sparsity_scale, found.settings.rotate_keyframes) == (0.5, False)
    assert found.settings.window_size == SETTINGS.window_size == 8 and SETTINGS.sparsity_scale == 0.75
    plan = found.settings.plan_arguments(load_preset("wan2.1-1.3b"))
    assert (plan["sparsity_scale"], plan["rotate"], plan["window"]) == (0.5, False, 2)


def test_who_wants_none_of_it_gets_no_riflex_either_unless_asked() -> None:
    server = LvsaSettings(riflex_scale=4)
    assert chosen(server, {"enabled": False}).settings.riflex_scale is None
    assert chosen(server, {"enabled": False, "riflex_scale": 2}).settings.riflex_scale == 2
    assert chosen(server, {"enabled": True}).settings.riflex_scale == 4


def test_every_knob_is_a_setting_with_its_default() -> None:
    defaults = {field.name: field.default for field in fields(LvsaSettings)}
    assert {*KNOBS} <= {*defaults}
    for name in KNOBS:
        default = defaults[name]
        if default is not None and name != "key_frame_interval":
            assert getattr(chosen(LvsaSettings(), {name: default}).settings, name) == default
    own = chosen(SETTINGS, {"auto_keyframes": False, "key_frame_interval": 12})
    assert own.settings.knobs.key_frame_interval == 12


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([1], "extra_params.lvsa must be an object such as"),
        ("on", "extra_params.lvsa must be an object such as"),
        ({"sparsity": 0.5}, "has no knob 'sparsity'; did you mean sparsity_scale?"),
        ({"zzz": 1}, "has no knob 'zzz'; there are enabled, sparsity_scale,"),
        ({"backend": "sdpa"}, "has no knob 'backend'"),
        ({"sparsity_scale": -1}, "extra_params.lvsa.sparsity_scale is -1, but must be"),
        ({"sparsity_scale": "inf"}, "extra_params.lvsa.sparsity_scale is 'inf', but must be"),
        ({"window_size": 2.5}, "extra_params.lvsa.window_size is 2.5, but must be"),
        ({"window_size": True}, "extra_params.lvsa.window_size is True, but must be a number, not true or false"),
        ({"riflex_scale": False}, "extra_params.lvsa.riflex_scale is False, but must be a number, not true or false"),
        ({"n_first_frames": 10**9}, "extra_params.lvsa.n_first_frames is 1000000000, but must be less than or equal"),
        ({"window_size": None}, "extra_params.lvsa.window_size is None, but must be"),
        ({"rotate_keyframes": "maybe"}, "extra_params.lvsa.rotate_keyframes is 'maybe', but must be a boolean"),
        ({"enabled": 3}, "extra_params.lvsa.enabled is 3, but must be a boolean"),
        ({"reference_latent_frames": 0}, "extra_params.lvsa.reference_latent_frames is 0, but must be"),
        ({"riflex_scale": 0.5}, "extra_params.lvsa.riflex_scale is 0.5, but must be"),
        ({"key_frame_interval": 8}, "key_frame_interval has an effect with auto_keyframes=false only"),
    ],
)
def test_what_cannot_be_used_is_named(asked: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"extra_params\.lvsa") as raised:
        chosen(SETTINGS, asked)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_server_may_take_none() -> None:
    with pytest.raises(ValueError, match="LVSA_ALLOW_REQUEST_KNOBS=0"):
        chosen(LvsaSettings(allow_request_knobs=False), {})
    assert chosen(LvsaSettings(allow_request_knobs=False), None).enabled is None


def test_a_recipe_of_the_server_and_of_a_request() -> None:
    """Without the server's a request says null; its own knobs go before a recipe's, also where they exclude these."""
    server = LvsaSettings(recipe="long", anchor_positions="remap", anchor_boost=1.0, rotate_after=0.6, window_size=16)
    plain = chosen(server, {"recipe": None}).settings
    assert (plain.recipe, plain.anchor_positions, plain.anchor_boost, plain.rotate_after) == (None, "true", 0, 0)
    assert plain.window_size == 12 and chosen(server, {"recipe": None, "window_size": 8}).settings.window_size == 8
    assert chosen(server, {"sparsity_scale": 0.5}).settings.anchor_positions == "remap"
    for own in (server, LvsaSettings()):
        still = chosen(own, {"recipe": "long", "rotate_keyframes": False}).settings
        assert (still.rotate_after, still.anchor_positions) == (0, "remap")
    assert chosen(server, {"rotate_keyframes": False}).settings.rotate_after == 0
    with pytest.raises(ValueError, match="rotate_after has an effect with rotate_keyframes only"):
        chosen(LvsaSettings(), {"rotate_keyframes": False, "rotate_after": 0.5})
    assert chosen(LvsaSettings(anchor_boost=1.0), {"recipe": None}).settings.anchor_boost == 1

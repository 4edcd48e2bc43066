"""From video frames, which users give, to latent frames and frames of tokens, which the pattern has."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lvsa_core.knobs import DEFAULT_INTERVAL, Knobs


def test_video_frames_become_latent_frames() -> None:
    assert Knobs().plan_arguments(21, 4) == {
        "reference_frames": 21,
        "window": 3,
        "n_first": 1,
        "sparsity_scale": 1.0,
        "keyframe_interval": None,
        "expand_window": True,
        "rotate": True,
    }
    assert Knobs(reference_latent_frames=40).plan_arguments(21, 4)["reference_frames"] == 40


@pytest.mark.parametrize(("joined", "window", "interval"), [(1, 6, 5), (2, 3, 2), (3, 2, 1)])
def test_latent_frames_that_are_joined_to_one_frame_of_tokens(joined: int, window: int, interval: int) -> None:
    """As in CogVideoX 1.5, which joins two."""
    found = Knobs(window_size=24, auto_keyframes=False, key_frame_interval=20).plan_arguments(11, 4, joined)
    assert (found["window"], found["keyframe_interval"]) == (window, interval)


def test_an_interval_is_at_least_one_frame() -> None:
    assert Knobs(auto_keyframes=False).plan_arguments(21, 4)["keyframe_interval"] == DEFAULT_INTERVAL // 4
    assert Knobs(auto_keyframes=False, key_frame_interval=1).plan_arguments(21, 4)["keyframe_interval"] == 1


def test_the_table_of_the_page() -> None:
    """It has every knob with its default, in their order."""
    page = (Path(__file__).parents[2] / "docs/diffusers.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) \| (\w[\w.]*) \|", page.partition("## Knobs")[2].partition("\n## ")[0], re.MULTILINE)
    assert rows[1:] == [(field.name, str(field.default)) for field in fields(Knobs)]


def test_what_is_given_goes_before_a_recipe() -> None:
    """Also where it leaves a part of it without effect."""
    found = Knobs.of({"recipe": "long", "rotate_keyframes": False, "window_size": 8})
    assert (found.rotate_after, found.window_size, found.anchor_positions, found.anchor_boost) == (0, 8, "remap", 1)
    assert Knobs.of({"recipe": "long"}).rotate_after == 0.6 and Knobs.of({"recipe": None}) == Knobs()

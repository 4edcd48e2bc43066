"""The JSON of a video: the pattern it tells is the one of the published table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lvsa_vllm_omni.offline import VideoSettings
from lvsa_vllm_omni.offline.images import ImageFile
from lvsa_vllm_omni.offline.record import pattern_record, versions, video_record
from lvsa_vllm_omni.presets import load_preset
from lvsa_vllm_omni.settings import LvsaSettings

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def planned(settings: VideoSettings) -> Any:
    """A function that gives the settings of a Wan video with LVSA settings of its own."""

    def with_lvsa(**lvsa: Any) -> VideoSettings:
        plan = LvsaSettings(**lvsa).plan_arguments(load_preset("wan2.1-1.3b"))
        return replace(settings, plan=plan, lvsa=lvsa)

    return with_lvsa


def test_the_pattern_of_four_times_the_training_length(planned: Any) -> None:
    assert pattern_record(planned(), 81) == {
        "latent_frames": 81,
        "window": 3,
        "n_first": 1,
        "keyframe_interval": 6,
        "anchors_at_step_0": list(range(0, 81, 6)),
        "attended_per_frame": 21,
        "density": 0.2593,
        "anchors": None,
        "rotation": "the anchors move by one latent frame each denoising step and are back after 6 steps",
    }


def test_what_is_said_of_rotation(planned: Any, settings: VideoSettings) -> None:
    assert pattern_record(replace(settings, plan=None), 81) is None
    assert pattern_record(planned(rotate_keyframes=False), 81)["rotation"].startswith("off:")
    held = pattern_record(planned(rotate_after=0.6, anchor_boost=1.0), 81)
    assert held["rotation"].startswith("after 0.6 of the denoising steps the anchors move by one")
    assert held["anchors"] == "anchor_boost=1 rotate_after=0.6" and held["anchors_at_step_0"] == list(range(0, 81, 6))
    moved = pattern_record(planned(anchor_positions="remap", anchor_boost=1.0), 81)
    assert moved["anchors"] == "anchor_positions=remap group=5 shift=3 anchor_boost=1"
    assert pattern_record(planned(), 21)["rotation"] == "none: every frame attends to every frame"


def test_auto_is_dense_up_to_the_training_length(planned: Any) -> None:
    assert pattern_record(planned(sparsity_scale=0.5), 21)["density"] < 1
    assert pattern_record(planned(sparsity_scale=0.5, auto=True), 21)["density"] == 1
    assert pattern_record(planned(sparsity_scale=0.5, auto=True), 22)["density"] < 1


def test_versions_name_the_engine() -> None:
    found = versions()
    assert found["lvsa-vllm-omni"] and found["torch"] and found["python"]
    assert {"vllm", "vllm-omni"} <= found.keys()


def test_a_memory_that_the_engine_does_not_report_is_null(settings: VideoSettings) -> None:
    class Output:
        stage_durations = None
        peak_memory_mb = 0.0

    record = video_record(settings, 81, {"file": "x.mp4"}, {"generation": 1.23456}, Output())
    assert record["peak_memory_mib"] is None
    assert record["timings_s"] == {"generation": 1.235}
    assert record["settings"] == settings.as_json()
    assert (record["image_files"], record["ran"]) == ([], None)


def test_an_image_is_recorded_by_content_and_place(settings: VideoSettings) -> None:
    class Output:
        stage_durations = None
        peak_memory_mb = 0.0

    made, moved, other = (
        replace(settings, images=(ImageFile(Path(place, "fox.png"), content * 64),))
        for place, content in (("stills", "a"), ("elsewhere", "a"), ("stills", "b"))
    )
    record = video_record(made, 81, {}, {}, Output(), {"request:sparse": 1})
    assert record["settings"]["images"] == ["a" * 64]
    assert record["image_files"] == ["stills/fox.png"]
    assert record["ran"] == {"sparse": True, "fallbacks": {}}
    assert made.digest() == moved.digest() != other.digest()
    assert made.digest() != settings.digest()

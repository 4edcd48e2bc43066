"""Knobs, reports, facts about families, and wrong use."""

import gc
import inspect
import subprocess
import sys
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lvsa_core.diffusers
from lvsa_core import FrameGrid, plan
from lvsa_core.diffusers.families import FAMILIES, family_of
from lvsa_core.facts import shipped, temporal_axis
from lvsa_core.knobs import Knobs
from lvsa_vllm_omni.presets import shipped_presets
from lvsa_vllm_omni.settings import LvsaSettings
from tests.support.videos import KINDS, KNOBS, LATENT, SHORT, distance, generate, masked
from tests.support.way import documented, watch

Pipeline = Callable[[str], Any]


def test_exported_names() -> None:
    assert lvsa_core.diffusers.__all__ == ["Lvsa", "Report", "enable_lvsa"]


def test_importing_it_needs_torch_alone() -> None:
    code = "import sys, lvsa_core.diffusers; print('diffusers' in sys.modules, 'lvsa_vllm_omni' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_knobs_are_the_plugins_settings() -> None:
    settings, knobs = LvsaSettings(), Knobs()
    for preset in shipped_presets().values():
        ours = knobs.plan_arguments(preset.reference_latent_frames, preset.vae_temporal_factor)
        assert ours == settings.plan_arguments(preset)
    manual = LvsaSettings(auto_keyframes=False)
    preset = shipped_presets()["wan"]
    assert Knobs(auto_keyframes=False).plan_arguments(21, 4) == manual.plan_arguments(preset)


def test_groups_of_heads(pipeline: Pipeline, enable_lvsa: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """The same video, and a line in each call of the pipeline."""
    pipe = pipeline("wan")
    lvsa = enable_lvsa(pipe, **KNOBS)
    expected = generate("wan", pipe)
    lvsa.disable()
    enable_lvsa(pipe, **KNOBS, extra_memory=0.0)
    with caplog.at_level("INFO", "lvsa_core"):
        videos = [generate("wan", pipe) for _ in range(2)]
    assert max(distance(video, expected) for video in videos) < 1e-5
    lines = [line.split(" and ")[0] for line in caplog.messages if line.startswith("LVSA: ")]
    assert lines == ["LVSA: attention works in 4 groups of heads"] * 2
    with pytest.raises(ValueError, match="extra_memory must be a number of GB from 0 on, got -1"):
        Knobs(extra_memory=-1)


@pytest.mark.parametrize(("frames", "anchors"), [(0, 0), (3, 0), (4, 1), (8, 1), (12, 2), (16, 2)])
def test_leading_anchors_of_fewer_video_frames_than_a_latent_one(frames: int, anchors: int) -> None:
    """CogVideoX 1.5 has 8 of them in a pair of latent frames, of which one suffices."""
    assert Knobs(n_first_frames=frames).plan_arguments(11, 4, 2)["n_first"] == anchors


def test_every_model_of_configs_has_a_family() -> None:
    known = {name: family.name for family in FAMILIES for name in family.transformers}
    for table in shipped().values():
        names = table["match"]["transformer"]
        assert table["family"] in {known.get(name) for name in ([names] if isinstance(names, str) else names)}


@pytest.mark.parametrize(("frames", "patch_t", "reference"), [(49, None, 13), (81, 2, 11)])
def test_references_of_cogvideox(frames: int, patch_t: int | None, reference: int) -> None:
    from diffusers import CogVideoXTransformer3DModel

    with torch.device("meta"):
        model = CogVideoXTransformer3DModel(
            num_layers=1, num_attention_heads=2, attention_head_dim=16, sample_frames=frames, patch_size_t=patch_t
        )
    family = family_of(model)
    assert family is not None and family.reference(model) == reference
    hidden = torch.zeros(1, 22, 16, 8, 12, device="meta")
    assert family.video(model, {"hidden_states": hidden}).grid == FrameGrid(11 if patch_t else 22, 24)


@pytest.mark.parametrize(("kind", "reference"), [("wan", 21), ("wan-ti2v", 31), ("hunyuan", 33), ("cosmos3", 48)])
def test_family_and_reference_come_from_the_pipeline(
    kind: str, reference: int, pipeline: Pipeline, enable_lvsa: Callable[..., Any]
) -> None:
    lvsa = enable_lvsa(pipeline(kind))
    assert (lvsa.family, lvsa.reference_latent_frames) == (kind.partition("-")[0], reference)


def test_the_temporal_channels_of_wan() -> None:
    from diffusers import WanTransformer3DModel

    for head_size in (12, 16, 128):
        with torch.device("meta"):
            model = WanTransformer3DModel(num_layers=1, num_attention_heads=1, attention_head_dim=head_size)
        assert temporal_axis("wan", model.config) == (model.rope.t_dim, 10000.0)


def test_every_knob_is_used(pipeline: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    pipe = pipeline("wan")
    knobs = {
        "window_size": 8,
        "n_first_frames": 8,
        "auto_keyframes": False,
        "key_frame_interval": 20,
        "rotate_keyframes": False,
        "expand_window": False,
        "reference_latent_frames": 6,
        "backend": "sdpa",
    }
    pattern = plan(
        LATENT, reference_frames=6, window=2, n_first=2, keyframe_interval=5, expand_window=False, rotate=False
    )
    with masked("wan", pipe, lambda step: pattern):
        oracle = generate("wan", pipe)
    lvsa = enable_lvsa(pipe, **knobs)
    assert distance(generate("wan", pipe), oracle) < 2e-4
    assert lvsa.report().density == pattern.density and lvsa.report().kernel == "sdpa"
    lvsa.disable()
    lvsa = enable_lvsa(pipe, reference_latent_frames=6, sparsity_scale=2.0)
    generate("wan", pipe)
    assert lvsa.report().reason == "within the attention budget of 12 latent frames (training horizon 6)"


def test_report(pipeline: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    pipe = pipeline("wan")
    lvsa = enable_lvsa(pipe, **KNOBS)
    assert str(lvsa.report()) == "LVSA on wan (trained on 5 latent frames): no step has run yet"
    generate("wan", pipe)
    report = lvsa.report()
    assert str(report) == (
        f"LVSA on wan (trained on 5 latent frames): 12 latent frames of 16 patches, 3 of 3 steps sparse; "
        f"density {report.density:.1%}, kernel {report.kernel}"
    )
    generate("wan", pipe, SHORT, steps=2)
    assert str(lvsa.report()) == (
        "LVSA on wan (trained on 5 latent frames): 5 latent frames of 16 patches, 0 of 2 steps sparse; "
        "dense: within the attention budget of 5 latent frames (training horizon 5)"
    )


@pytest.mark.parametrize(
    ("knobs", "error", "words"),
    [
        ({"windowsize": 3}, TypeError, "no knob 'windowsize'; did you mean window_size"),
        ({"xyz": 3}, TypeError, "no knob 'xyz'; there are window_size"),
        ({"window_size": -1}, ValueError, "window_size must be an integer of at least 0"),
        ({"window_size": None}, ValueError, "window_size must be an integer of at least 0"),
        ({"reference_latent_frames": 0}, ValueError, "reference_latent_frames must be"),
        ({"rotate_keyframes": 1}, ValueError, "rotate_keyframes must be True or False"),
        ({"sparsity_scale": -1.0}, ValueError, "sparsity_scale must be"),
        ({"backend": "fast"}, ValueError, "no attention kernel 'fast': choose one of auto, flash"),
        ({"key_frame_interval": 8}, ValueError, "auto_keyframes=False"),
    ],
)
def test_wrong_knobs(knobs: dict[str, Any], error: type[Exception], words: str, pipeline: Pipeline) -> None:
    with pytest.raises(error, match=words) as caught:
        lvsa_core.diffusers.enable_lvsa(pipeline("wan"), **knobs)
    assert "\n" not in str(caught.value)


def test_a_kernel_that_does_not_run_is_an_error(pipeline: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("flash may run here")
    pipe = pipeline("wan")
    enable_lvsa(pipe, **KNOBS, backend="flash")
    with pytest.raises(RuntimeError, match="attention kernel 'flash' does not run"):
        generate("wan", pipe)


@pytest.mark.parametrize("pipe", [None, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", SimpleNamespace(components={"unet": 1})])
def test_what_is_no_video_pipeline(pipe: Any) -> None:
    with pytest.raises(ValueError, match="no video transformer that LVSA knows: give a diffusers pipeline with one of"):
        lvsa_core.diffusers.enable_lvsa(pipe)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_enable(kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    lvsa = enable_lvsa(pipeline(kind))
    with pytest.raises(ValueError, match=r"already on.*call disable\(\)"):
        enable_lvsa(pipeline(kind), window_size=4)
    lvsa.disable()
    enable_lvsa(pipeline(kind), window_size=4)


class Bare:
    """A pipeline without references in circles, as diffusers' own have them."""

    def __init__(self, transformer: Any) -> None:
        self.components = {"transformer": transformer}


def test_a_dropped_model_does_not_wait_for_the_collector(fresh: Pipeline) -> None:
    """It would be in memory beside the next one."""
    pipe = Bare(fresh("wan").transformer)
    lvsa = lvsa_core.diffusers.enable_lvsa(pipe, **KNOBS, riflex_s=2)
    model = weakref.ref(pipe.components["transformer"])
    gc.collect()
    gc.disable()
    try:
        del pipe
        assert model() is None
    finally:
        gc.enable()
    lvsa.disable()


def test_the_handle_keeps_no_pipeline_alive(fresh: Pipeline) -> None:
    pipe = fresh("wan")
    lvsa = lvsa_core.diffusers.enable_lvsa(pipe, **KNOBS, riflex_s=2)
    generate("wan", pipe)
    model = weakref.ref(pipe.transformer)
    del pipe
    gc.collect()
    assert model() is None
    assert lvsa.report().sparse_steps == 3
    lvsa.disable()


@pytest.mark.parametrize("kind", ["wan", "hunyuan", "cosmos3", "cogvideox"])
def test_the_way_to_the_kernel(
    kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one that docs/architecture.md lists, in eight functions."""
    rows, ways = documented("In diffusers"), watch(monkeypatch)
    enable_lvsa(pipeline(kind), **KNOBS)
    generate(kind, pipeline(kind), steps=1)
    assert len(rows) == 8 and ways and [len(row) for row in rows] == [1, 1, 0, 1, 1, 1, 1, 1]
    own = ["__call__"] * (kind in ("hunyuan", "cogvideox"))  # of processors; the first two functions have returned
    assert {tuple(way) for way in ways} == {(*own, *(name for row in rows[3:] for name in row))}


def test_the_temporal_axes() -> None:
    """Those of the classes' own defaults; of Cosmos 3, which mixes time with height and width, and of others none."""
    from diffusers import CogVideoXTransformer3DModel, HunyuanVideo15Transformer3DModel

    defaults = inspect.signature(HunyuanVideo15Transformer3DModel.__init__).parameters
    named = {name: defaults[name].default for name in ("rope_axes_dim", "rope_theta")}
    assert temporal_axis("hunyuan", {}) == temporal_axis("hunyuan", named) == (16, 256.0)
    with torch.device("meta"):
        cogvideox = CogVideoXTransformer3DModel(num_layers=1, use_rotary_positional_embeddings=True)
        learned = CogVideoXTransformer3DModel(num_layers=1)
    assert temporal_axis("cogvideox", cogvideox.config) == (16, 10000.0)
    assert temporal_axis("cogvideox", learned.config) is temporal_axis("cosmos3", {"head_dim": 128}) is None

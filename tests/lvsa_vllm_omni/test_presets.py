"""Presets: found from the transformer's class and configuration, wrong ones refused."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lvsa_vllm_omni.cpu.runs import CPU_RUNS
from lvsa_vllm_omni.hooks import DENSE
from lvsa_vllm_omni.presets import PresetError, load_preset, match_preset, preset_for_checkpoint, shipped_presets
from lvsa_vllm_omni.settings import LvsaSettings
from lvsa_vllm_omni.tiny.checkpoint import KINDS
from tests.support.families import FAMILIES

REPOSITORY = Path(__file__).parents[2]

#: What the published checkpoints say in transformer/config.json, and whether model_index.json names transformer_2.
PUBLISHED: dict[str, dict[str, Any]] = {
    "wan2.1-1.3b": dict(num_attention_heads=12, num_layers=30, in_channels=16, out_channels=16, ffn_dim=8960),
    "wan2.1-14b": dict(num_attention_heads=40, num_layers=40, in_channels=16, out_channels=16, ffn_dim=13824),
    "wan2.2-a14b": dict(num_attention_heads=40, num_layers=40, in_channels=16, out_channels=16, ffn_dim=13824),
    "wan2.2-ti2v-5b": dict(num_attention_heads=24, num_layers=30, in_channels=48, out_channels=48, ffn_dim=14336),
    "wan": dict(num_attention_heads=4, num_layers=2, in_channels=16, out_channels=16, ffn_dim=256),
}
REFERENCE = {"wan2.2-ti2v-5b": 31}


def checkpoint(folder: Path, name: str) -> Path:
    """The two files of a checkpoint that presets read."""
    (folder / "transformer").mkdir(parents=True)
    config = {"_class_name": "WanTransformer3DModel", "attention_head_dim": 128, **PUBLISHED[name]}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    second = ["diffusers", "WanTransformer3DModel"] if name == "wan2.2-a14b" else [None, None]
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", "transformer_2": second}))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_published_checkpoint_finds_its_preset(name: str, tmp_path: Path) -> None:
    preset = preset_for_checkpoint(checkpoint(tmp_path, name))
    assert preset.name == name
    assert preset.family == "wan"
    assert preset.reference_latent_frames == REFERENCE.get(name, 21)
    assert preset.vae_temporal_factor == 4
    assert (preset.frames - 1) // 4 + 1 == preset.reference_latent_frames


def test_every_shipped_preset_is_found_by_some_checkpoint() -> None:
    assert set(shipped_presets()) == {*PUBLISHED, *OTHERS}


#: Presets that need no more than the transformer's class, as the checkpoint or the engine names it.
OTHERS = {
    "hunyuan-video-1.5": ["HunyuanVideo15Transformer3DModel"],
    "cosmos3": ["Cosmos3VFMTransformer", "Cosmos3EdgeVFMTransformer", "Cosmos3OmniTransformer"],
}


@pytest.mark.parametrize(("name", "transformer"), [(name, cls) for name, classes in OTHERS.items() for cls in classes])
def test_presets_by_class_alone(name: str, transformer: str) -> None:
    preset = match_preset({"transformer": transformer})
    assert preset.name == name
    assert (preset.frames - 1) // preset.vae_temporal_factor + 1 == preset.reference_latent_frames


def test_the_settings_name_every_training_length() -> None:
    said = LvsaSettings.model_fields["reference_latent_frames"].description or ""
    assert set(re.findall(r"\d\d", said)) == {str(x.reference_latent_frames) for x in shipped_presets().values()}


def test_what_has_run_on_the_cpu_is_what_the_engines_tests_run() -> None:
    """Each kind in one row or more, no other, and no test that is not there."""
    assert CPU_RUNS.keys() == {*shipped_presets(), *(model.title for model in DENSE if model.family)}
    kinds = {kind for run in CPU_RUNS.values() for kind in run.kinds}
    assert kinds == {*FAMILIES} == KINDS.keys() - {"cogvideox"}
    for test in (test for run in CPU_RUNS.values() for test in run.tests):
        file, _, function = test.partition("::")
        tree = ast.parse((REPOSITORY / file).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_an_unknown_transformer_is_refused_with_the_way_out() -> None:
    with pytest.raises(PresetError, match=r"no preset fits the transformer class 'Other': set LVSA_PRESET"):
        match_preset({"transformer": "Other"})


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="is not a checkpoint in the diffusers layout"):
        preset_for_checkpoint(tmp_path)
    for text in (b"{", b"[]", b"\xff"):
        (tmp_path / "model_index.json").write_bytes(text)
        with pytest.raises(PresetError, match="is not a checkpoint in the diffusers layout"):
            preset_for_checkpoint(tmp_path)


GOOD = 'family = "wan"\nreference_latent_frames = 25\nvae_temporal_factor = 4\n'
SHAPED = GOOD + "[shape]\nheads = 6\nhead_size = 16\nblocks = 2\nffn = 99\npatch = 2\nvae_spatial_factor = 8\n"


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    preset = load_preset(str(file))
    assert (preset.name, preset.reference_latent_frames, preset.shape) == ("mine", 25, None)
    file.write_text(SHAPED + "kv_heads = 2\nhidden = 100\ntext_tokens = 256\n")
    shape = load_preset(str(file)).shape
    assert shape is not None
    assert (shape.heads, shape.kv_heads, shape.hidden, shape.text_tokens, shape.cross_tokens) == (6, 2, 100, 256, 0)


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"wan"}))
def test_the_shapes_are_those_of_the_published_checkpoints(name: str) -> None:
    shape, published = shipped_presets()[name].shape, PUBLISHED[name]
    assert shape is not None
    assert (shape.heads, shape.blocks) == (published["num_attention_heads"], published["num_layers"])
    assert (shape.kv_heads, shape.ffn) == (shape.heads, published["ffn_dim"])
    assert (shape.head_size, shape.patch, shape.text_tokens, shape.cross_tokens) == (128, 2, 0, 512)
    assert shape.hidden == {12: 1536, 24: 3072, 40: 5120}[shape.heads]
    assert shape.vae_spatial_factor == (16 if published["in_channels"] == 48 else 8)


def test_the_preset_of_a_whole_family_has_no_shape() -> None:
    assert shipped_presets()["wan"].shape is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("family =", "preset mine is not TOML"),
        ('family = "wan"', "preset mine lacks reference_latent_frames, vae_temporal_factor"),
        (GOOD + "shift = 3", "preset mine has the unknown key 'shift'"),
        (GOOD.replace("wan", "vhs"), "preset mine: family must be one of wan, hunyuan, cosmos3, got 'vhs'"),
        (GOOD + "match = 3", "preset mine: match must be a table"),
        (GOOD.replace("25", "true"), "preset mine: reference_latent_frames must be a positive integer, got True"),
        (GOOD.replace("25", "0"), "preset mine: reference_latent_frames must be a positive integer, got 0"),
        (GOOD + "height = 0", "preset mine: height must be a positive integer, got 0"),
        (GOOD + 'width = "wide"', "preset mine: width must be a positive integer, got 'wide'"),
        (GOOD + "shape = 3", "preset mine: shape must be a table of numbers, got 3"),
        (SHAPED + "depth = 3", "preset mine: shape has the unknown key 'depth': known are heads, kv_heads, "),
        (SHAPED.replace("ffn = 99\n", ""), "preset mine: shape lacks ffn$"),
        (SHAPED + "text_tokens = -1", "preset mine: shape.text_tokens must be an integer of at least 0, got -1"),
        (SHAPED.replace("99", "0"), "preset mine: shape.ffn must be an integer of at least 1, got 0"),
        (SHAPED.replace("99", "true"), "preset mine: shape.ffn must be an integer of at least 1, got True"),
        (SHAPED + "pads = 1", "preset mine: shape.pads must be true or false, got 1"),
        (SHAPED + "kv_heads = 4", "preset mine: shape.kv_heads must divide shape.heads, 6, got 4"),
    ],
)
def test_a_wrong_preset_gets_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(PresetError, match=sentence):
        load_preset(str(tmp_path / "mine.toml"))


def test_a_missing_preset_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="no preset is named 'wan3': choose one of cosmos3, "):
        load_preset("wan3")
    with pytest.raises(PresetError, match="cannot be read: No such file"):
        load_preset(str(tmp_path / "none.toml"))
    (tmp_path / "other.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PresetError, match="is not a text file in UTF-8"):
        load_preset(str(tmp_path / "other.toml"))

"""Presets: found from the transformer's class and configuration, wrong ones refused."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lvsa_vllm_omni.checkpoint import Checkpoint, CheckpointError
from lvsa_vllm_omni.fields import meanings
from lvsa_vllm_omni.hooks import DENSE
from lvsa_vllm_omni.presets import Preset, PresetError, load_preset, match_preset, preset_of, shipped_presets
from lvsa_vllm_omni.settings import LvsaSettings
from lvsa_vllm_omni.tiny.checkpoint import KINDS
from tests.support.families import FAMILIES

REPOSITORY = Path(__file__).parents[2]

#: Name of a preset, or title of a model that stays dense -> the kinds of tiny checkpoints that stand for it on a CPU,
#: and the tests that build a variant of their own. Each kind is run by every test of the engine's families.
CPU_RUNS: dict[str, tuple[list[str], list[str]]] = {
    "toy-wan": (["toy-wan"], []),
    "wan2.1-1.3b": (["wan"], []),
    "wan2.1-14b": (["wan", "wan-i2v"], []),
    "wan2.2-a14b": (["wan-a14b"], []),
    "wan2.2-ti2v-5b": (["wan-ti2v"], []),
    "wan": ([], ["test_wan_variants.py::test_vace", "test_wan_variants.py::test_dmd_takes_few_steps_without_guidance"]),
    "Wan 2.2 S2V": ([], ["test_speech_to_video.py::test_it_stays_dense"]),
    "hunyuan-video-1.5": (["hunyuan", "hunyuan-i2v"], []),
    "cosmos3": (["cosmos3"], []),
}

#: What the published checkpoints say in transformer/config.json, and whether model_index.json names transformer_2.
PUBLISHED: dict[str, dict[str, Any]] = {
    "toy-wan": dict(num_attention_heads=3, num_layers=4, in_channels=11, out_channels=11, ffn_dim=288),
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
    preset = preset_of(Checkpoint.read(checkpoint(tmp_path, name)))
    assert preset.name == name
    assert preset.family == "wan"
    assert preset.reference_latent_frames == REFERENCE.get(name, 21)
    assert preset.vae_temporal_factor == 4
    assert preset.frames == preset.training_frames


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


def test_the_settings_name_every_training_length() -> None:
    said = meanings(LvsaSettings)["reference_latent_frames"]
    assert set(re.findall(r"\d\d", said)) == {str(x.reference_latent_frames) for x in shipped_presets().values()}


def test_what_has_run_on_the_cpu_is_what_the_engines_tests_run() -> None:
    """Each kind in one row or more, no other, and no test that is not there."""
    told = {name: preset.cpu or "" for name, preset in shipped_presets().items()}
    told |= {model.title: model.cpu for model in DENSE if model.family}
    assert CPU_RUNS.keys() == told.keys()
    for name, (kinds, tests) in CPU_RUNS.items():
        assert told[name].startswith(f"tiny {', '.join(kinds)}" if kinds else ("tiny ones", "a tiny one"))
        for file, _, function in (test.partition("::") for test in tests):
            tree = ast.parse((REPOSITORY / "tests" / "engine" / file).read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    ran = {kind for kinds, _ in CPU_RUNS.values() for kind in kinds}
    assert ran == {*FAMILIES, "toy-wan"} == KINDS.keys() - {"cogvideox"}


def test_an_unknown_transformer_is_refused_with_the_way_out() -> None:
    with pytest.raises(PresetError, match=r"no preset fits the transformer class 'Other': set LVSA_PRESET"):
        match_preset({"transformer": "Other"})


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint in the diffusers layout"):
        Checkpoint.read(tmp_path)
    for text in (b"{", b"[]", b"\xff"):
        (tmp_path / "model_index.json").write_bytes(text)
        with pytest.raises(CheckpointError, match="not a checkpoint in the diffusers layout"):
            Checkpoint.read(tmp_path)


def test_the_documentation_tells_of_every_key() -> None:
    text = (REPOSITORY / "docs" / "settings.md").read_text().split("## Presets")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)[1:]
    assert {key.strip("[]") for row in rows for key in row.split(", ")} == Preset.model_fields.keys() - {"name"}


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


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"wan", "toy-wan"}))
def test_the_shapes_are_those_of_the_published_checkpoints(name: str) -> None:
    shape, published = shipped_presets()[name].shape, PUBLISHED[name]
    assert shape is not None
    assert (shape.heads, shape.blocks) == (published["num_attention_heads"], published["num_layers"])
    assert (shape.kv_heads, shape.ffn) == (shape.heads, published["ffn_dim"])
    assert (shape.head_size, shape.patch, shape.text_tokens, shape.cross_tokens) == (128, 2, 0, 512)
    assert shape.hidden == {12: 1536, 24: 3072, 40: 5120}[shape.heads]
    assert shape.vae_spatial_factor == (16 if published["in_channels"] == 48 else 8)


@pytest.mark.slow
def test_the_shape_of_the_toy_is_that_of_its_transformer() -> None:
    from lvsa_vllm_omni.tiny.toy import toy_transformer

    shape, config = shipped_presets()["toy-wan"].shape, toy_transformer().config
    assert shape is not None
    assert (shape.heads, shape.head_size, shape.blocks, shape.ffn) == (
        config.num_attention_heads, config.attention_head_dim, config.num_layers, config.ffn_dim,
    )  # fmt: skip
    assert shape.patch == config.patch_size[-1]


def test_the_preset_of_a_whole_family_has_no_shape() -> None:
    assert shipped_presets()["wan"].shape is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("family =", "preset mine is not TOML"),
        ('family = "wan"', "preset mine: the key 'reference_latent_frames' is missing"),
        (GOOD + "shift = 3", "preset mine: unknown key 'shift'; accepted: title, family, "),
        (GOOD.replace("wan", "vhs"), "preset mine: family is 'vhs', but must be one of wan, hunyuan, cosmos3"),
        (GOOD + "match = 3", "preset mine: match is 3, but must be an object"),
        (GOOD.replace("25", "true"), "preset mine: reference_latent_frames is True, but must be a valid integer"),
        (GOOD.replace("25", "0"), "preset mine: reference_latent_frames is 0, but must be greater than 0"),
        (GOOD + "height = 0", "preset mine: height is 0, but must be greater than 0"),
        (GOOD + 'width = "wide"', "preset mine: width is 'wide', but must be a valid integer"),
        (GOOD + "shape = 3", "preset mine: shape is 3, but must be an object"),
        (SHAPED + "depth = 3", "preset mine: unknown key 'shape.depth'; accepted: .*heads, head_size, "),
        (SHAPED.replace("ffn = 99\n", ""), "preset mine: the key 'shape.ffn' is missing$"),
        (SHAPED + "text_tokens = -1", "preset mine: shape: text_tokens must be at least 0, got -1"),
        (SHAPED.replace("99", "0"), "preset mine: shape: ffn must be at least 1, got 0"),
        (SHAPED.replace("99", "true"), "preset mine: shape.ffn is True, but must be a valid integer"),
        (SHAPED + "pads = 1", "preset mine: shape.pads is 1, but must be a valid boolean"),
        (SHAPED + "kv_heads = 4", "preset mine: shape: kv_heads must divide heads, 6, got 4"),
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

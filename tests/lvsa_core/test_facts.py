"""Facts of models: readable with torch alone, complete, and found by a transformer's class and configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

from lvsa_core.facts import best_match, model_facts, shipped, toml_texts, training_length

pytest.importorskip("pydantic", reason="the presets are pydantic's models")
from lvsa_vllm_omni.presets import shipped_presets

REPOSITORY = Path(__file__).parents[2]
#: Video frames that each model was trained on, and makes by default where that is another number.
FRAMES = {
    "cogvideox": (49, None),
    "cogvideox-1.5": (81, None),
    "cosmos3": (189, None),
    "hunyuan-video-1.5": (129, 121),
    "toy-wan": (81, None),
    "wan": (81, None),
    "wan2.1-1.3b": (81, None),
    "wan2.1-14b": (81, None),
    "wan2.2-a14b": (81, None),
    "wan2.2-ti2v-5b": (121, None),
}


def test_every_file_is_there_and_tells_the_lengths() -> None:
    assert list(shipped()) == sorted(FRAMES) == sorted(path.stem for path in (REPOSITORY / "configs").glob("*.toml"))
    for name, (trained, made) in FRAMES.items():
        table = shipped()[name]
        latent = (trained - 1) // table["vae_temporal_factor"] + 1
        assert table["reference_latent_frames"] == -(-latent // table["match"].get("patch_size_t", 1))
        assert table["frames"] == (made or trained)


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_it_needs_neither_the_engine_nor_pydantic(installed: bool) -> None:
    """Also from the repository alone, as on a machine that has torch and nothing else."""
    code = (
        "import sys\n"
        "for name in ('pydantic', 'pydantic_core', 'vllm', 'vllm_omni', 'diffusers'): sys.modules[name] = None\n"
        f"if not {installed}: sys.modules['lvsa_vllm_omni.configs'] = None\n"
        "from lvsa_core.facts import shipped; from lvsa_vllm_omni.shape import Shape; print(*shipped())\n"
        "print(*(name for name, table in shipped().items() if 'shape' in table and Shape(**table['shape'])))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    names, shaped = (line.split() for line in found.stdout.splitlines())
    assert names == list(shipped()) and shaped == [name for name, preset in shipped_presets().items() if preset.shape]


def test_toml_texts_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.toml", "a.toml", "c.txt"):
        (tmp_path / name).write_text(name)
    assert toml_texts(tmp_path) == {"a": "a.toml", "b": "b.toml"}


def test_the_match_with_most_conditions_wins() -> None:
    matches = {"all": {"transformer": ["A", "B"]}, "small": {"transformer": "A", "layers": 2}, "two": {"x": 1}}
    assert best_match(matches, model_facts("A", {"layers": 2})) == "small"
    assert best_match(matches, model_facts("B", {"layers": 2})) == "all"
    assert best_match(matches, model_facts("C", {})) is None


def test_a_second_transformer_is_a_fact() -> None:
    assert model_facts("A", {})["transformer_2"] is False
    assert model_facts("A", {}, {"transformer_2": [None, None]})["transformer_2"] is False
    assert model_facts("A", {}, {"transformer_2": ["diffusers", "A"]})["transformer_2"] is True


def test_training_length_of_a_class_or_the_one_it_derives_from() -> None:
    assert training_length(["Mine", "WanTransformer3DModel"], {}) == 21
    assert training_length(["WanTransformer3DModel"], {"in_channels": 48, "out_channels": 48}) == 31
    assert training_length(["CogVideoXTransformer3DModel"], {"patch_size_t": None}) == 13
    assert training_length(["CogVideoXTransformer3DModel"], {"patch_size_t": 2}) == 11
    with pytest.raises(LookupError, match="no model in configs/"):
        training_length(["Other"], {})

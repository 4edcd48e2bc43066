"""The tiny checkpoints: whole or absent on the disk, and models whose video depends on all they are made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.tiny.checkpoint import KINDS, CheckpointError, write_checkpoint

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("wan", tmp_path_factory.mktemp("checkpoints") / "wan")


@pytest.fixture(scope="module")
def pipeline(wan: Path) -> Any:
    loaded = diffusers.WanPipeline.from_pretrained(wan, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generate(pipeline: Any, prompt: str = "a cat on a mat", frames: int = 9, seed: int = 42) -> Any:
    """Return frames [T, H, W, 3] in 0..1."""
    with torch.no_grad():
        return pipeline(
            prompt=prompt,
            negative_prompt="bad",
            height=64,
            width=64,
            num_frames=frames,
            num_inference_steps=3,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).frames[0]


def distance(one: Any, other: Any) -> float:
    return float(abs(one - other).mean())


def test_it_is_small_and_complete(wan: Path) -> None:
    index = json.loads((wan / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline"
    assert {path.name for path in wan.iterdir() if path.is_dir()} == set(index) - {"_class_name"}
    assert sum(path.stat().st_size for path in wan.rglob("*") if path.is_file()) < 8e6


def test_the_seed_decides_the_weights(wan: Path, tmp_path: Path) -> None:
    def weights(directory: Path) -> bytes:
        return next(directory.glob("transformer/*.safetensors")).read_bytes()

    state = torch.random.get_rng_state()
    again = write_checkpoint("wan", tmp_path / "again")
    assert torch.equal(state, torch.random.get_rng_state())
    assert weights(again) == weights(wan)
    assert weights(write_checkpoint("wan", tmp_path / "other", seed=1, layers=1)) != weights(wan)


#: Kind -> class of the pipeline, and the folders beside those of every Wan.
LAYOUTS = {
    "wan-i2v": ("WanImageToVideoPipeline", {"image_encoder", "image_processor"}),
    "wan-ti2v": ("WanPipeline", set()),
    "wan-a14b": ("WanPipeline", {"transformer_2"}),
    "hunyuan": ("HunyuanVideo15Pipeline", {"text_encoder_2", "tokenizer_2"}),
    "hunyuan-i2v": (
        "HunyuanVideo15ImageToVideoPipeline",
        {"text_encoder_2", "tokenizer_2", "feature_extractor", "image_encoder"},
    ),
    "cosmos3": ("Cosmos3OmniPipeline", None),
    "cogvideox": ("CogVideoXPipeline", set()),
}


def test_every_random_kind_has_a_test() -> None:
    assert set(LAYOUTS) == {name for name, kind in KINDS.items() if kind.sizes} - {"wan"}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_kind_is_small_complete_and_decided_by_its_seed(kind: str, tmp_path: Path) -> None:
    def weights(directory: Path) -> dict[str, bytes]:
        return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.safetensors")}

    state = torch.random.get_rng_state()
    one, again = (write_checkpoint(kind, tmp_path / name) for name in ("one", "again"))
    assert torch.equal(state, torch.random.get_rng_state())
    other = write_checkpoint(kind, tmp_path / "other", seed=1, layers=1)

    pipeline, more = LAYOUTS[kind]
    parts = {"scheduler", "text_encoder", "tokenizer", "transformer", "vae"} | (more or set())
    if kind == "cosmos3":  # its transformer reads the text itself
        parts = {"scheduler", "text_tokenizer", "transformer", "vae"}
    index = json.loads((one / "model_index.json").read_text())
    assert index["_class_name"] == pipeline
    assert {name for name, value in index.items() if isinstance(value, list)} == parts
    assert {path.name for path in one.iterdir() if path.is_dir()} == parts
    assert sum(path.stat().st_size for path in one.rglob("*") if path.is_file()) < 60e6

    assert weights(one) == weights(again)
    assert weights(one).keys() == weights(other).keys()
    assert all(weights(one)[name] != weights(other)[name] for name in weights(one))


@pytest.mark.parametrize(("kind", "setting"), [("wan-ti2v", {"expand_timesteps": True}), ("wan-a14b", {})])
def test_what_the_index_says_of_the_wan_2_2_models(kind: str, setting: dict[str, Any], tmp_path: Path) -> None:
    index = json.loads((write_checkpoint(kind, tmp_path / kind) / "model_index.json").read_text())
    settings = {
        name: value for name, value in index.items() if not name.startswith("_") and not isinstance(value, list)
    }
    assert settings == (setting or {"boundary_ratio": 0.875})


def test_cosmos3_shares_keys_and_values_among_heads(tmp_path: Path) -> None:
    config = json.loads((write_checkpoint("cosmos3", tmp_path / "cosmos3") / "transformer/config.json").read_text())
    assert config["num_attention_heads"] == 2 * config["num_key_value_heads"]


def test_the_video_is_stable(pipeline: Any) -> None:
    video = generate(pipeline)
    assert video.shape == (9, 64, 64, 3)
    assert 0.1 < video.std() < 0.3
    assert ((video <= 0) | (video >= 1)).mean() < 0.02
    assert distance(video, generate(pipeline)) == 0


def test_the_video_depends_on_prompt_seed_and_both_attentions(pipeline: Any) -> None:
    video = generate(pipeline)
    assert distance(video, generate(pipeline, prompt="a cat on a hat")) > 0.02
    assert distance(video, generate(pipeline, seed=43)) > 0.02
    for name in ("attn1", "attn2"):
        handles = [getattr(block, name).register_forward_hook(_zero) for block in pipeline.transformer.blocks]
        without = generate(pipeline)
        for handle in handles:
            handle.remove()
        assert distance(video, without) > 0.02, name


def test_the_video_depends_on_which_keys_are_attended(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong sparse pattern loses keys: even one latent frame of three must show, and rounding must not."""
    from diffusers.models.transformers import transformer_wan

    attend = transformer_wan.dispatch_attention_fn
    video = generate(pipeline)

    def changed(change: Callable[[Any], Any]) -> float:
        def dispatch(query: Any, key: Any, value: Any, **options: Any) -> Any:
            if query.shape[1] == key.shape[1]:
                key, value = change(key), change(value)
            return attend(query, key, value, **options)

        with monkeypatch.context() as patch:
            patch.setattr(transformer_wan, "dispatch_attention_fn", dispatch)
            return distance(video, generate(pipeline))

    assert changed(lambda tokens: tokens[:, :-16]) > 0.02
    assert changed(lambda tokens: tokens * (1 + 1e-6)) < 1e-4


def _zero(module: Any, arguments: Any, output: Any) -> Any:
    return torch.zeros_like(output)


def test_a_directory_in_use_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "stale").touch()
    assert main(["tiny-checkpoint", "wan", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "not empty" in message and "--force" in message
    assert main(["tiny-checkpoint", "wan", str(tmp_path), "--force"]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "model_index.json").is_file() and not (tmp_path / "vae" / "stale").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("kind", "directory", "words"),
    [
        ("sora", "new", "'sora'.*wan"),
        ("wan", "file", "is a file"),
        ("wan", "file/below", "is a file"),
        ("wan", "file/below/deep", "Not a directory"),
        ("wan", "/proc/none", "Cannot write to /proc/none"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, directory: str, words: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=words):
        write_checkpoint(kind, tmp_path / directory)
    assert main(["tiny-checkpoint", kind, str(tmp_path / directory)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lvsa_vllm_omni.tiny.tokenizer.CharacterTokenizer.save_pretrained", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_checkpoint("wan", tmp_path / "wan")
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_a_kind_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wan has no size 'kv_heads'"):
        write_checkpoint("wan", tmp_path / "wan", kv_heads=2)
    assert not list(tmp_path.iterdir())

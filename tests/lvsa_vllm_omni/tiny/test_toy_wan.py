"""Toy Wan as a checkpoint: complete and small, its words count and others do not, its VAE goes both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="Toy Wan is a pipeline of diffusers")

from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.presets import preset_of
from lvsa_vllm_omni.tiny import toy
from lvsa_vllm_omni.tiny.checkpoint import CheckpointError, write_checkpoint
from toy import train, world
from toy.evaluate import codec, judge
from toy.pipeline import STEPS, asked, decode, load, pipeline, sample

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("toy-wan", tmp_path_factory.mktemp("toy") / "toy-wan")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return pipeline()


def test_the_checkpoint_is_whole_and_small(folder: Path) -> None:
    assert toy.WEIGHTS.stat().st_size < 5e6
    import diffusers

    loaded = diffusers.WanPipeline.from_pretrained(folder, local_files_only=True)
    assert sum(x.numel() for x in loaded.transformer.parameters()) == 616_460
    assert sum(x.numel() for x in loaded.vae.decoder.parameters()) * 2 < 1.5e6  # bytes in float16
    preset = preset_of(Checkpoint.read(folder))
    assert (preset.name, preset.steps, preset.frames) == ("toy-wan", STEPS, 81)
    assert (preset.height, preset.width) == (world.SIDE * world.CELL,) * 2
    assert preset.reference_latent_frames == world.LENGTH
    card = (REPOSITORY / "toy" / "README.md").read_text()
    assert "Apache-2.0" in card


def test_it_has_no_sizes_to_choose(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="toy-wan has no size 'layers'"):
        write_checkpoint("toy-wan", tmp_path / "x", layers=1)


def test_the_package_and_the_world_agree() -> None:
    assert toy.WORDS == world.WORDS and toy.CHANNELS == world.CHANNELS


def test_prompts_in_words(pipe: Any) -> None:
    """Known words change the video, unknown ones nothing, a negative prompt and guidance do what they do in Wan."""

    def video(prompt: str, guidance: float = 1.0, negative: str = "") -> torch.Tensor:
        return pipe(
            prompt=prompt, negative_prompt=negative, num_frames=9, height=64, width=64, num_inference_steps=3,
            guidance_scale=guidance, output_type="latent", generator=torch.Generator().manual_seed(0),
        ).frames  # fmt: skip

    plain = video("a red ball, fast, blue sky")
    same = video("behold: the RED ball, it is Fast; under a Blue  sky of glass!")
    assert (plain - same).abs().max() < 1e-4  # other places among the keys, another rounding
    for other in ("a green ball, fast, blue sky", "a red ball, slow, blue sky", "a red ball, fast, pink sky"):
        assert (plain - video(other)).abs().max() > 0.05
    assert torch.equal(video(""), video("nothing that it knows"))
    guided = video("a red ball, fast, blue sky", 3.0)
    assert (guided - plain).abs().max() > 0.05
    assert torch.equal(guided, video("a red ball, fast, blue sky", 3.0, "worst quality"))
    assert (guided - video("a red ball, fast, blue sky", 3.0, "green ball")).abs().max() > 0.05


def test_the_pictures_show_what_the_prompts_ask_for(pipe: Any) -> None:
    seeds = range(500, 508)
    clips = asked(seeds)
    found = judge(decode(pipe, sample(pipe, clips.prompts(), seeds, world.LENGTH)), clips)
    assert found["colour"] == found["sky"] == 1 and found["speed class"] >= 7 / 8
    assert found["frames with one ball"] > 0.97


def test_the_vae_goes_both_ways(pipe: Any) -> None:
    found = codec(pipe)
    assert found["decoder, dB"] > 30 and found["decoder inside the ball, dB"] > 26
    assert found["encoder, root mean squared error"] < 0.1


def test_the_record_of_its_evaluation() -> None:
    """Sixty-four videos at the training length; the aims that the model card names."""
    kept = json.loads((REPOSITORY / "benchmarks" / "results" / "toy-wan.json").read_text())
    found = kept["rows"][0]
    assert found["colour and speed class"] >= 0.95 and found["frames with one ball"] >= 0.98
    assert found["decoder, dB"] >= 30 and found["decoder inside the ball, dB"] >= 26


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file; name the one"),
        (b"x", "is not the state of a training"),
        (b"junk\n", "is not the state"),
        (b"", "is not the state"),
    ],
)
def test_what_is_no_state_of_a_training_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "state.pt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit, match=sentence) as ended:
        load(file)
    assert str(ended.value).startswith("error: ") and "\n" not in str(ended.value)


def test_a_training_in_which_first_frames_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They come without noise, at time 0, and their error does not count; a file goes on with the same share alone."""
    state, calls, masks, errors = tmp_path / "state.pt", [], [], train.errors

    def transformer(head_dim: int) -> Any:
        model = toy.toy_transformer(head_dim=head_dim)
        model.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
        return model

    monkeypatch.setattr(train, "BATCH", 2)
    monkeypatch.setattr(train, "toy_transformer", transformer)
    monkeypatch.setattr(train, "errors", lambda *found: masks.append(found[2]) or errors(*found))
    monkeypatch.setattr("sys.argv", ["train", str(state), "--steps", "1", "--images", "1"])
    with torch.compiler.set_stance("force_eager"):
        train.main()
    [(mixed, time, _)] = calls
    patches = (world.SIDE // 2) ** 2
    assert time.shape == (2, world.LENGTH * patches) and not time[:, :patches].any() and (time[:, patches:] > 0).all()
    sky = mixed[:, -3].flatten(2).std(2)
    assert (sky[:, 0] < 1e-6).all() and (sky[:, 1:] > 0.01).all(), "an even sky in the first frame, noise in the others"
    assert load(state)["images"] == 1 and masks[0].tolist() == [True, True]
    right, given = torch.zeros(2, 1, 3, 2, 2), torch.tensor([True, False])
    wrong = torch.tensor([9.0, 0, 0])[:, None, None].expand_as(right)
    assert errors(wrong, right, given).tolist() == [0, 27] and errors(right + 2, right, given)[0] == 8 / 3

    monkeypatch.setattr("sys.argv", ["train", str(state), "--steps", "2"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2 and "was trained with --images 1, not 0: name another file" in capsys.readouterr().err


def test_a_training_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "BATCH", 2)
    monkeypatch.setattr(train, "SAVED", 1)
    whole, parts, draw, drawn = tmp_path / "whole.pt", tmp_path / "parts.pt", world.draw, []

    def run(file: Path) -> None:
        monkeypatch.setattr("sys.argv", ["train", str(file), "--steps", "3", "--images", "0.5"])
        with torch.compiler.set_stance("force_eager"):
            train.main()

    def interrupted(*arguments: Any) -> world.Clips:
        drawn.append(arguments)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(*arguments)

    run(whole)
    monkeypatch.setattr(world, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(parts)
    assert load(parts)["done"] == 1
    run(parts)
    found, wanted = load(parts), load(whole)
    assert found["done"] == 3 and all(torch.equal(found["average"][name], x) for name, x in wanted["average"].items())


def test_a_share_of_pictures_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["train", str(tmp_path / "state.pt"), "--images", "2"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2 and "--images takes a share from 0 to 1, got 2" in capsys.readouterr().err


def test_the_state_of_another_training_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "vae.pt"
    torch.save({"parts": [], "done": 1}, file)
    assert load(file, "parts")["done"] == 1
    with pytest.raises(SystemExit, match="is not the state of a training: name another file"):
        pipeline(file)

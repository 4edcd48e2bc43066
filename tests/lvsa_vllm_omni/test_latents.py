"""Latents that wait on the disk: what a file holds, and that no request fails for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.latents import Keeper, LatentsError, read

VAE = SimpleNamespace(config=SimpleNamespace(_class_name="AutoencoderKLWan"))


def request(name: str) -> Any:
    return SimpleNamespace(request_id=name, sampling_params=SimpleNamespace(fps=16, seed=7))


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def keeper(tmp_path: Path, told: list[str]) -> Keeper:
    return Keeper(tmp_path / "kept", lambda folder, problem: told.append(f"{folder}: {problem}"))


def test_each_request_of_a_batch_has_its_file(keeper: Keeper) -> None:
    latents = torch.randn(4, 3, 5, 2, 2, dtype=torch.bfloat16)
    keeper.begin([request("../a"), request("b")])
    with keeper.decoding(VAE, latents):
        first, second = sorted(keeper.folder.iterdir())
    assert (first.name, second.name) == ("___a.safetensors", "b.safetensors")
    found, about = read(second)
    assert torch.equal(found, latents[2:]) and found.dtype == torch.bfloat16
    assert (about["request"], about["fps"], about["seed"], about["vae"]) == ("b", 16, 7, "AutoencoderKLWan")
    keeper.end({"b"})  # each by its own error
    assert [*keeper.folder.iterdir()] == [second]


def test_a_request_in_parts_and_a_name_that_was_there(keeper: Keeper, told: list[str]) -> None:
    for _ in range(2):
        keeper.begin([request("a")])
        with keeper.decoding(VAE, torch.zeros(1, 3, 5, 2, 2)), keeper.decoding(VAE, torch.ones(1, 3, 5, 2, 2)):
            pass
        keeper.end({"a"})
    assert {file.stem for file in keeper.folder.iterdir()} == {"a", "a-2", "a-3", "a-4"} and not told


def test_an_error_keeps_its_type_and_names_the_file(keeper: Keeper) -> None:
    keeper.begin([request("a")])
    with (
        pytest.raises(
            torch.OutOfMemoryError, match=r"2 GiB; its latents are kept, .*lvsa decode .*/a\.safetensors --m"
        ),
        keeper.decoding(VAE, torch.zeros(1, 3, 5, 2, 2)),
    ):
        raise torch.OutOfMemoryError("2 GiB")


def test_a_folder_that_cannot_be_written_fails_no_request(keeper: Keeper, told: list[str]) -> None:
    keeper.folder.write_text("a file")
    keeper.begin([request("a")])
    with pytest.raises(ValueError, match=r"^plain$"), keeper.decoding(VAE, torch.zeros(1, 3, 5, 2, 2)):
        assert len(told) == 1 and told[0].startswith(str(keeper.folder))
        raise ValueError("plain")
    keeper.end({"a"})


def test_warm_up_is_not_kept(keeper: Keeper) -> None:
    keeper.begin([SimpleNamespace(is_dummy_run=lambda: True)])
    with keeper.decoding(VAE, torch.zeros(1, 3, 5, 2, 2)):
        assert not keeper.folder.exists()


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    save_file({"latents": torch.zeros(2)}, tmp_path / "flat.safetensors", {"lvsa": "{}"})
    save_file({"latents": torch.zeros(1, 2, 1, 2, 2)}, tmp_path / "odd.safetensors", {"lvsa": "{"})
    (tmp_path / "text.safetensors").write_text("hello")
    for name, said in {
        "nothing": "no such file",
        "model": "holds no latents of a video",
        "flat": "latents have five axes",
        "odd": "cannot be read",
        "text": "cannot be read",
    }.items():
        file = tmp_path / f"{name}.safetensors"
        with pytest.raises(LatentsError, match=said):
            read(file)
        assert main(["decode", str(file), "--model", "nowhere", "-o", "x.mp4"]) == 2
        assert said in capsys.readouterr().err


def test_two_processes_share_a_folder(tmp_path: Path, told: list[str]) -> None:
    """The same name in both: neither writes over the other's file, nor takes it away."""
    one, two = (Keeper(tmp_path, lambda *words: told.append(str(words))) for _ in range(2))
    for keeper in (one, two):
        keeper.begin([request("a")])
    with one.decoding(VAE, torch.zeros(1, 3, 5, 2, 2)), two.decoding(VAE, torch.ones(1, 3, 5, 2, 2)):
        pass
    one.end(())
    (left,) = tmp_path.iterdir()
    assert read(left)[0].all() and not told


def test_the_command_names_a_file_with_a_space(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "my latents", pytest.fail)
    keeper.begin([request("a")])
    quoted = r"lvsa decode '.*my latents/a\.safetensors' --model MODEL"
    with pytest.raises(ValueError, match=quoted), keeper.decoding(VAE, torch.zeros(1, 3, 5, 2, 2)):
        raise ValueError("x")


@pytest.mark.slow
def test_decode_says_what_is_wrong_before_it_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

    model = write_checkpoint("toy-wan", tmp_path / "toy")
    keeper = Keeper(tmp_path / "kept", pytest.fail)
    keeper.begin([request("a")])
    with keeper.decoding(VAE, torch.zeros(1, 11, 2, 4, 4)):
        file = str(*keeper.folder.iterdir())
    words = ["decode", file, "--model", str(model), "-o"]
    assert main([*words, str(tmp_path / "one.mp4")]) == 0
    assert "5 frames of 32x32" in capsys.readouterr().out
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    for more, said in {
        (str(tmp_path / "missing" / "one.mp4"),): "is no folder that can be written to",
        (str(tmp_path / "one.mp4"), "--fps", "-1"): "the frame rate is not known",
        (str(tmp_path / "one.mp4"), "--device", "cuda:77"): "--device cuda:77: ",
        (str(tmp_path / "one.mp4"),): f"--model {model}: its VAE cannot be loaded",
    }.items():
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error

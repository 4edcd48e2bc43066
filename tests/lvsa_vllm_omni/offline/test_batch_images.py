"""Images of prompts: known by content, and refused where the checkpoint's pipeline cannot use them."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from lvsa_vllm_omni.offline.images import NEEDS_ONE, REFERENCES, TEXT_ALONE, ImageFile, check_number


def picture(path: Path, colour: str = "red", mode: str = "RGB") -> Path:
    Image.new(mode, (6, 4), colour).save(path)
    return path


def test_an_image_is_its_content(tmp_path: Path) -> None:
    first, second, other = (picture(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    picture(other, "blue")
    assert ImageFile.read(first).sha256 == ImageFile.read(second).sha256 != ImageFile.read(other).sha256


def test_it_is_loaded_in_rgb(tmp_path: Path) -> None:
    image = ImageFile.read(picture(tmp_path / "a.png", "#ff000080", "RGBA")).load()
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), (255, 0, 0))


def test_an_image_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    image = ImageFile.read(picture(tmp_path / "a.png"))
    picture(tmp_path / "a.png", "blue")
    with pytest.raises(ValueError, match=r"a\.png: the image has changed since the batch began"):
        image.load()
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match="cannot read the image: No such file"):
        image.load()


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    whole = picture(tmp_path / "a.png").read_bytes()
    files = {"text.png": b"a cat", "half.png": whole[: len(whole) // 2], "empty.png": b""}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in (*files, "none.png", "."):
        with pytest.raises(ValueError, match="cannot read the image: ") as error:
            ImageFile.read(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


NEEDED = "makes a video from an image: name it with --image, or as image in a JSON line"


@pytest.mark.parametrize(
    ("pipeline", "index", "images", "sentence"),
    [
        ("WanImageToVideoPipeline", {}, 0, NEEDED),
        ("HunyuanVideo15ImageToVideoPipeline", {}, 0, NEEDED),
        ("WanImageToVideoPipeline", {}, 1, ""),
        ("WanImageToVideoPipeline", {}, 2, "takes one image, and there are 2"),
        ("WanPipeline", {}, 0, ""),
        ("WanPipeline", {}, 1, "makes a video from text alone: leave the image out"),
        ("WanPipeline", {"expand_timesteps": False}, 1, "makes a video from text alone: leave the image out"),
        ("WanPipeline", {"expand_timesteps": True}, 1, ""),
        ("WanPipeline", {"expand_timesteps": True}, 0, ""),
        ("HunyuanVideo15Pipeline", {}, 1, "makes a video from text alone: leave the image out"),
        ("Cosmos3OmniPipeline", {}, 0, ""),
        ("Cosmos3OmniPipeline", {}, 1, ""),
        ("WanVACEPipeline", {}, 0, ""),
        ("WanVACEPipeline", {}, 3, ""),
        ("LabPipeline", {}, 1, ""),
    ],
)
def test_how_many_images_a_pipeline_takes(pipeline: str, index: dict[str, bool], images: int, sentence: str) -> None:
    if not sentence:
        check_number(pipeline, index, images)
        return
    with pytest.raises(ValueError) as error:
        check_number(pipeline, index, images)
    assert str(error.value) == f"{pipeline} {sentence}"


def test_the_pipelines_are_the_engines() -> None:
    spec = importlib.util.find_spec("vllm_omni")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM-Omni is not installed")
    registry = Path(spec.submodule_search_locations[0], "diffusion", "registry.py").read_text()
    assert [name for name in sorted(NEEDS_ONE | TEXT_ALONE | REFERENCES) if f'"{name}": (' not in registry] == []

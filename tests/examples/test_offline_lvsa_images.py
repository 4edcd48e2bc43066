"""Images of a batch's videos: which one a prompt gets, what makes another video, and what is refused."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from tests.support.offline import finish, jobs

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def image_checkpoint(checkpoint: Path) -> Path:
    """The same configs, of a model that makes videos from images."""
    index = json.loads((checkpoint / "model_index.json").read_text())
    (checkpoint / "model_index.json").write_text(json.dumps({**index, "_class_name": "WanImageToVideoPipeline"}))
    return checkpoint


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def test_an_image_of_the_prompts_own_goes_before_the_batchs(
    offline_lvsa: ModuleType, image_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "stills" / "cat.png")
    picture(tmp_path / "dog.png", "blue")
    file = tmp_path / "stills" / "prompts.jsonl"
    file.write_text('{"prompt": "a cat", "image": "cat.png"}\n{"prompt": "a dog"}\n')
    monkeypatch.chdir(tmp_path)
    found = jobs(offline_lvsa, image_checkpoint, "--prompts-file", str(file), "--image", "dog.png")
    assert [[image.path for image in job.settings.images] for job in found] == [
        [tmp_path / "stills" / "cat.png"],
        [Path("dog.png")],
    ]


def test_another_image_is_another_video_and_another_place_is_not(
    offline_lvsa: ModuleType, image_checkpoint: Path, tmp_path: Path
) -> None:
    first, copy, other = (
        picture(tmp_path / name, colour) for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue"))
    )
    folder = ("--output-name", "clip", "--output-dir", str(tmp_path))
    (job,) = jobs(offline_lvsa, image_checkpoint, *folder, "--image", str(first))
    finish(job, tmp_path)
    for image, finished in ((first, True), (copy, True), (other, False)):
        (again,) = jobs(offline_lvsa, image_checkpoint, *folder, "--image", str(image))
        assert offline_lvsa.is_finished(again, tmp_path) is finished


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "prompt 1: WanImageToVideoPipeline makes a video from an image: name it with --image, or as image in"),
        (["--image", "none.png"], "prompt 1: none.png: cannot read the image: No such file or directory"),
        (["--image", __file__], f"prompt 1: {__file__}: cannot read the image: it is in no format that PIL knows"),
        (["--image", "a.png", "--image", "a.png"], "prompt 1: WanImageToVideoPipeline takes one image, and there are"),
    ],
)
def test_refuses_images_with_one_sentence(
    offline_lvsa: ModuleType,
    image_checkpoint: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: Any,
    flags: Any,
    sentence: str,
) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert offline_lvsa.main(["--model", str(image_checkpoint), "--prompt", "x", *flags]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {sentence}")
    assert output.err.count("\n") == 1 and output.out == ""


def test_refuses_an_image_that_would_not_be_looked_at(
    offline_lvsa: ModuleType, checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    flags = ["--prompt", "x", "--image", str(picture(tmp_path / "a.png"))]
    assert offline_lvsa.main(["--model", str(checkpoint), *flags]) == 2
    assert "prompt 1: WanPipeline makes a video from text alone: leave the image out" in capsys.readouterr().err

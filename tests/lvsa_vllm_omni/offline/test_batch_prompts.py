"""Prompt files: what is read, and the sentence for what cannot be."""

import json
from pathlib import Path

import pytest

from lvsa_vllm_omni.offline import PromptFileError, PromptSpec, read_prompts_file


def write(folder: Path, text: str, name: str = "prompts.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_one_prompt_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffa cat\r\n\n  a dog with a form\u2028feed  \n")
    assert read_prompts_file(path) == [PromptSpec(prompt="a cat"), PromptSpec(prompt="a dog with a form\u2028feed")]


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.txt"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path,
        '{"prompt": "a cat", "seed": 7, "num_frames": 161, "height": 480, "width": 832}\n\n'
        '{"prompt": "a dog", "negative_prompt": "", "horizon": 4}\n',
        name,
    )
    assert read_prompts_file(path) == [
        PromptSpec(prompt="a cat", seed=7, num_frames=161, height=480, width=832),
        PromptSpec(prompt="a dog", negative_prompt="", horizon=4),
    ]


def test_images_lie_beside_the_file(tmp_path: Path) -> None:
    names = ["fox.png", "/stills/fox.png", ["a/b.png", "c.png"], []]
    lines = [{"prompt": "a cat", "image": name} for name in names]
    path = write(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "prompts.jsonl")
    assert [spec.image for spec in read_prompts_file(path)] == [
        [tmp_path / "fox.png"],
        [Path("/stills/fox.png")],
        [tmp_path / "a" / "b.png", tmp_path / "c.png"],
        [],
    ]
    assert PromptSpec(prompt="a cat").image is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n \n", "the prompt file is empty"),
        ('{"prompt": "a"}\n\n{"prompt": }\n', "line 3: not JSON: Expecting value at column 12"),
        ('{"prompt": "a"}\na cat\n', "line 2: not JSON"),
        ('{"prompt": "a", "sede": 1}\n', "line 1: unknown key 'sede'; accepted: prompt, negative_prompt, seed,"),
        ('{"seed": 1}\n', "line 1: the key 'prompt' is missing"),
        ('{"prompt": " "}\n', "line 1: the prompt is blank"),
        ('{"prompt": "a", "num_frames": 81, "horizon": 2}\n', "line 1: num_frames and horizon exclude each other"),
        ('{"prompt": "a", "seed": -1}\n', "line 1: seed is -1, but must be greater than or equal to 0"),
        ('{"prompt": "a", "height": 48.5}\n', "line 1: height is 48.5, but must be a valid integer"),
        ('{"prompt": "a", "seed": "1"}\n', "line 1: seed is '1', but must be a valid integer"),
        ('{"prompt": "a", "image": 3}\n', "line 1: image is 3, but must be the path of an image, or a list of paths"),
        ('{"prompt": "a", "image": ""}\n', "line 1: image is '', but must be the path of an image, or a list of paths"),
        ('{"prompt": "a"}\n["a"]\n', "line 2: expected an object such as"),
    ],
)
def test_refuses(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PromptFileError) as error:
        read_prompts_file(path)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_json_lines_file_is_json_from_its_first_line(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="line 1: not JSON"):
        read_prompts_file(write(tmp_path, "a cat\n", "prompts.jsonl"))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="cannot read the prompt file: No such file"):
        read_prompts_file(tmp_path / "none.txt")
    (tmp_path / "video.mp4").write_bytes(b"abc\xff\xfe")
    with pytest.raises(PromptFileError, match=r"not UTF-8 text \(byte 3\)"):
        read_prompts_file(tmp_path / "video.mp4")

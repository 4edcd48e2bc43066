"""The prompt file: one prompt a line, or one JSON object a line with what one video changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_Name = Annotated[str, Field(min_length=1)]


class PromptFileError(ValueError):
    """A prompt file that cannot be used; the sentence names the file and the line."""


class PromptSpec(BaseModel):
    """One prompt and what it sets for itself; None: the batch's own value. Sizes in pixels, lengths in video frames.

    `image` is the path of an image, or of several; an empty list: none, whatever the batch has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: str = Field(min_length=1)
    negative_prompt: str | None = None
    # What torch.Generator.manual_seed takes without wrapping around.
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    num_frames: int | None = Field(default=None, ge=1)
    horizon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    height: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    image: _Name | list[_Name] | None = None

    @model_validator(mode="after")
    def _one_length(self) -> PromptSpec:
        if not self.prompt.strip():
            raise ValueError("the prompt is blank")
        if self.num_frames is not None and self.horizon is not None:
            raise ValueError("num_frames and horizon exclude each other")
        return self

    def image_paths(self) -> list[Path] | None:
        """The images, in order; None: the batch's own."""
        names = [self.image] if isinstance(self.image, str) else self.image
        return None if names is None else [Path(name).expanduser() for name in names]

    def beside(self, folder: Path) -> PromptSpec:
        """The same prompt with its images looked for in a folder, as far as their paths are relative."""
        paths = self.image_paths()
        return self if paths is None else self.model_copy(update={"image": [str(folder / path) for path in paths]})


def read_prompts_file(path: str | Path) -> list[PromptSpec]:
    """Read the prompts of a file, in order; blank lines are skipped.

    A file that ends in .jsonl, or whose first line begins with `{`, holds one JSON object a line with the fields of
    `PromptSpec`, images relative to the file's own folder; any other file holds one prompt a line.

    Raises:
        PromptFileError: the file is missing, empty or not UTF-8 text, or one of its lines cannot be used.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PromptFileError(f"{path}: cannot read the prompt file: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise PromptFileError(f"{path}: the prompt file is not UTF-8 text (byte {error.start})") from None
    # Not splitlines(): it also breaks at form feeds and U+2028, which may stand inside a prompt.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise PromptFileError(f"{path}: the prompt file is empty")
    if path.suffix.lower() == ".jsonl" or lines[0][1].startswith("{"):
        return [_from_json(line, f"{path}, line {number}").beside(path.parent) for number, line in lines]
    return [PromptSpec(prompt=line) for _, line in lines]


def _from_json(line: str, where: str) -> PromptSpec:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptFileError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        raise PromptFileError(f'{where}: expected an object such as {{"prompt": "..."}}, got {line[:60]!r}')
    try:
        return PromptSpec.model_validate(value)
    except ValidationError as error:
        raise PromptFileError(f"{where}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """The first finding of a validation error, in one sentence."""
    first = error.errors()[0]
    if first["loc"] and first["loc"][0] == "image":  # one finding for each form that it may have
        return f"image={first['input']!r}: it is the path of an image, or a list of paths"
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; accepted: {', '.join(PromptSpec.model_fields)}"
    if first["type"] == "missing":
        return f"the key {key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}={first['input']!r}: {message}" if key else message

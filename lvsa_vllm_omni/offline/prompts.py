"""The prompt file: one prompt a line, or one JSON object a line with what one video changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from lvsa_vllm_omni.validation import sentence

_LENGTHS = {"num_frames", "horizon"}


class PromptFileError(ValueError):
    """A prompt file that cannot be used; the sentence names the file and the line."""


class PromptSpec(BaseModel):
    """One prompt and what it sets for itself; None: the batch's own value. Sizes in pixels, lengths in video frames.

    `image` is the path of an image, or of several; an empty list: none, whatever the batch has. `lvsa` holds knobs of
    this video's own, see :mod:`lvsa_vllm_omni.request_knobs`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: str = Field(min_length=1)
    negative_prompt: str | None = None
    # What torch.Generator.manual_seed takes without wrapping around.
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    num_frames: PositiveInt | None = None
    horizon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    image: list[Path] | None = None
    lvsa: dict[str, Any] | None = None

    @field_validator("image", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        names = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(name, str | Path) and str(name) for name in names):
            raise ValueError("the path of an image, or a list of paths")
        return None if value is None else [Path(name).expanduser() for name in names]

    @model_validator(mode="after")
    def _one_length(self) -> PromptSpec:
        if not self.prompt.strip():
            raise ValueError("the prompt is blank")
        if self.num_frames is not None and self.horizon is not None:
            raise ValueError("num_frames and horizon exclude each other")
        return self

    @classmethod
    def of(cls, values: dict[str, Any]) -> PromptSpec:
        """A prompt with these values.

        Raises:
            ValueError: one sentence on the first that cannot be used.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(sentence(error, cls.model_fields)) from None

    def over(self, batch: dict[str, Any]) -> PromptSpec:
        """This prompt with the batch's values where it has none; a length of its own, of either kind, wins.

        Raises:
            ValueError: as :meth:`of`.
        """
        own = self.model_dump(exclude_none=True)
        return PromptSpec.of(
            {**{k: v for k, v in batch.items() if not (k in _LENGTHS and own.keys() & _LENGTHS)}, **own}
        )


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
    if path.suffix.lower() != ".jsonl" and not lines[0][1].startswith("{"):
        return [PromptSpec(prompt=line) for _, line in lines]
    specs = []
    for number, line in lines:
        try:
            spec = PromptSpec.of(_object(line))
        except ValueError as error:
            raise PromptFileError(f"{path}, line {number}: {error}") from None
        beside = None if spec.image is None else [path.parent / image for image in spec.image]
        specs.append(spec.model_copy(update={"image": beside}))
    return specs


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        raise ValueError(f'expected an object such as {{"prompt": "..."}}, got {line[:60]!r}')
    return value

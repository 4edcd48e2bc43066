"""Presets: what a model was trained for, found from its transformer's class and configuration."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError, field_validator

from lvsa_core.facts import best_match, model_facts, shipped, toml_texts
from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.hooks import family_names
from lvsa_vllm_omni.hooks.families import SPECS, package_name
from lvsa_vllm_omni.shape import Shape
from lvsa_vllm_omni.validation import sentence

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Group of entry points, each of which names a family and points at a package with presets for it, as TOML files.
GROUP = "lvsa.presets"


class PresetError(ValueError):
    """A preset cannot be read, or none fits; the message says which and what to do."""


class Preset(BaseModel):
    """What one model was trained for, and what its authors generate with; the keys of a TOML file, but for the name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    name: str
    """the file's name without .toml"""
    title: str = ""
    """the model's name for people; the preset's if empty"""
    family: str
    """the name of one"""
    reference_latent_frames: PositiveInt
    """latent frames of the training videos"""
    vae_temporal_factor: PositiveInt
    """video frames to a latent frame"""
    frames: PositiveInt = 81
    """video frames of a video where nobody names a length"""
    fps: PositiveInt = 16
    """video frames a second"""
    height: PositiveInt | None = None
    """pixels; None, here and below: the engine's default is the authors'"""
    width: PositiveInt | None = None
    """pixels"""
    steps: PositiveInt | None = None
    """denoising steps"""
    guidance: float | None = None
    """scale of classifier-free guidance"""
    flow_shift: float | None = None
    """shift of the noise schedule"""
    cpu: str | None = None
    """which tiny models have run on the engine on a CPU in its place, None if none yet"""
    gpu: str | None = None
    """on which GPU the published model has run under LVSA, None if on none yet"""
    match: dict[str, Any] = Field({}, repr=False)
    """transformer class and configuration values that select this preset, a list where several do; the key
    transformer_2 says whether the pipeline has a second transformer"""
    shape: Shape | None = None
    """of its transformer, None if the preset is for transformers of many shapes"""

    @field_validator("family")
    @classmethod
    def _known(cls, family: str) -> str:
        if family not in family_names():
            raise ValueError(f"one of {', '.join(family_names())}")
        return family

    @property
    def training_frames(self) -> int:
        """Video frames of the training videos."""
        return (self.reference_latent_frames - 1) * self.vae_temporal_factor + 1


def load_preset(name: str) -> Preset:
    """The preset with a name in configs/ or of an installed package, or in a TOML file.

    Raises:
        PresetError: if there is none, or the file does not fit.
    """
    presets = shipped_presets()
    if name in presets:
        return presets[name]
    path = Path(name).expanduser()
    if path.suffix != ".toml":
        presets = known_presets()
        if name in presets:
            return presets[name]
        raise PresetError(
            f"no preset is named {name!r}: choose one of {', '.join(presets)}, or give the path of a .toml"
        )
    try:
        return _parse(path.stem, path.read_text("utf-8"))
    except OSError as error:
        raise PresetError(f"preset {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PresetError(f"preset {path} is not a text file in UTF-8") from None


def shipped_presets() -> dict[str, Preset]:
    """The presets of configs/ by name, but for those of families that diffusers alone runs."""
    return {name: _validated(name, table) for name, table in shipped().items() if table["family"] in SPECS}


def known_presets(family: str | None = None) -> dict[str, Preset]:
    """The presets of configs/ and those that installed packages register, by name.

    Args:
        family: only its presets; packages that register none for it are not imported.

    Raises:
        PresetError: if a package's presets cannot be read, or have a name that is taken.
    """
    found = {name: preset for name, preset in shipped_presets().items() if family in (None, preset.family)}
    for entry_point in entry_points(group=GROUP):
        if family not in (None, entry_point.name):
            continue
        package = package_name(entry_point)
        try:
            texts = toml_texts(resources.files(entry_point.value))
        except Exception as error:  # whatever a foreign module raises while it is imported
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise PresetError(
                f"the presets of the package {package} cannot be read from {entry_point.value!r} ({reason}): repair or "
                f"uninstall {package}"
            ) from None
        for name, text in texts.items():
            preset = _parse(name, text)
            if preset.family != entry_point.name:
                raise PresetError(
                    f"the package {package} registers presets for the family {entry_point.name!r}, but {name}.toml is "
                    f"for {preset.family!r}"
                )
            if name in found or name in shipped():
                raise PresetError(f"the package {package} has the preset {name!r}, a name that is taken: rename it")
            found[name] = preset
    return found


def match_preset(facts: Mapping[str, Any], family: str | None = None) -> Preset:
    """The preset that fits a model best: of those whose conditions all hold, the one with most conditions.

    Args:
        facts: from :func:`model_facts`. family: only presets of this one.

    Raises:
        PresetError: if none fits.
    """
    presets = known_presets(family)
    name = best_match({name: preset.match for name, preset in presets.items()}, facts)
    if name is None:
        raise PresetError(
            f"no preset fits the transformer class {facts.get('transformer')!r}: set LVSA_PRESET to a name in configs/ "
            f"or to the path of a TOML file"
        )
    return presets[name]


def preset_of(checkpoint: Checkpoint, family: str | None = None, name: str | None = None) -> Preset:
    """The preset of a checkpoint.

    Args:
        family: None: the one that the checkpoint is of. A family of an installed package may be for a transformer that
            a shipped family has too.
        name: of the preset, from LVSA_PRESET; None: the one that fits best.

    Raises:
        PresetError: there is none, or it is of another family.
    """
    facts = model_facts(checkpoint.transformer.get("_class_name"), checkpoint.transformer, checkpoint.index)
    if name:
        preset = load_preset(name)
    else:
        try:
            preset = match_preset(facts, family)
        except PresetError:
            preset = match_preset(facts)
    if family not in (None, preset.family):
        raise PresetError(f"--family {family}: the checkpoint is of the family {preset.family}")
    return preset


def shape_of(table: Mapping[str, Any]) -> Shape:
    """A shape from a table of numbers.

    Raises:
        ValueError: one sentence that names the key and what is accepted.
    """
    try:
        return TypeAdapter(Shape).validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        raise ValueError(sentence(error)) from None


def _parse(name: str, text: str) -> Preset:
    """A preset from the text of its TOML file."""
    try:
        return _validated(name, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PresetError(f"preset {name} is not TOML: {error}") from None


def _validated(name: str, table: Mapping[str, Any]) -> Preset:
    # By way of JSON, in which pydantic takes a table for a dataclass though it is strict about numbers.
    try:
        return Preset.model_validate_json(json.dumps({**table, "name": name}, default=str))
    except ValidationError as error:
        known = [key for key in (*Preset.model_fields, *Shape.__dataclass_fields__) if key != "name"]
        raise PresetError(f"preset {name}: {sentence(error, known)}") from None

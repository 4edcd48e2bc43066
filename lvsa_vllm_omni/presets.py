"""Presets: what a model was trained for, found from its transformer's class and configuration."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.hooks import family_names
from lvsa_vllm_omni.hooks.families import package_name
from lvsa_vllm_omni.shape import Shape, parse_shape

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


#: Group of entry points, each of which names a family and points at a package with presets for it, as TOML files.
GROUP = "lvsa.presets"


class PresetError(ValueError):
    """A preset or a checkpoint cannot be read; the message says which and what to do."""


@dataclass(frozen=True)
class Preset:
    """What one model was trained for.

    Args:
        name: name of the preset, the file's name without ``.toml``.
        family: the name of one.
        reference_latent_frames: latent frames of the training videos.
        vae_temporal_factor: video frames per latent frame.
        match: transformer class and configuration values that select this preset, a list where several do; the key
            ``transformer_2`` says whether the pipeline has a second transformer.
        frames: video frames of the training videos; fps, height, width, steps, guidance, flow_shift: what the model's
            authors generate with, None where the engine's default is theirs.
        shape: of its transformer, None if the preset is for transformers of many shapes.
        title: the model's name for people; the preset's if empty.
        gpu: on which GPU the published model has run under LVSA, None if on none yet.
    """

    name: str
    family: str
    reference_latent_frames: int
    vae_temporal_factor: int
    match: Mapping[str, Any] = field(hash=False)
    frames: int = 81
    fps: int = 16
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    flow_shift: float | None = None
    shape: Shape | None = None
    title: str = ""
    gpu: str | None = None

    def fits(self, facts: Mapping[str, Any]) -> bool:
        """Whether every condition holds for a model's facts."""
        wanted = {key: value if isinstance(value, list) else [value] for key, value in self.match.items()}
        return all(facts.get(key) in values for key, values in wanted.items())


def load_preset(name: str) -> Preset:
    """The preset with a name in configs/ or of an installed package, or in a TOML file.

    Raises:
        PresetError: if there is none, or the file does not fit.
    """
    shipped = shipped_presets()
    if name in shipped:
        return shipped[name]
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


@lru_cache(maxsize=1)
def shipped_presets() -> dict[str, Preset]:
    """The presets of configs/ by name."""
    files = resources.files("lvsa_vllm_omni.configs").iterdir()
    found = {f.name[: -len(".toml")]: f.read_text() for f in files if f.name.endswith(".toml")}
    return {name: _parse(name, found[name]) for name in sorted(found)}


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
            files = [file for file in resources.files(entry_point.value).iterdir() if file.name.endswith(".toml")]
            texts = {file.name[: -len(".toml")]: file.read_text("utf-8") for file in files}
        except Exception as error:  # whatever a foreign module raises while it is imported
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise PresetError(
                f"the presets of the package {package} cannot be read from {entry_point.value!r} ({reason}): repair or "
                f"uninstall {package}"
            ) from None
        for name in sorted(texts):
            preset = _parse(name, texts[name])
            if preset.family != entry_point.name:
                raise PresetError(
                    f"the package {package} registers presets for the family {entry_point.name!r}, but {name}.toml is "
                    f"for {preset.family!r}"
                )
            if name in found or name in shipped_presets():
                raise PresetError(f"the package {package} has the preset {name!r}, a name that is taken: rename it")
            found[name] = preset
    return found


def match_preset(facts: Mapping[str, Any], family: str | None = None) -> Preset:
    """The preset that fits a model best: of those whose conditions all hold, the one with most conditions.

    Args:
        facts: configuration of the transformer, its class as ``transformer``, and ``transformer_2``.
        family: only presets of this one.

    Raises:
        PresetError: if none fits.
    """
    fitting = [preset for preset in known_presets(family).values() if preset.fits(facts)]
    if not fitting:
        raise PresetError(
            f"no preset fits the transformer class {facts.get('transformer')!r}: set LVSA_PRESET to a name in configs/ "
            f"or to the path of a TOML file"
        )
    return max(fitting, key=lambda preset: len(preset.match))


def preset_for_checkpoint(path: str | Path) -> Preset:
    """The preset of a checkpoint in the diffusers layout.

    Raises:
        PresetError: if the folder is no such checkpoint, or no preset fits.
    """
    index, config = read_checkpoint(path)
    return match_preset(model_facts(config.get("_class_name"), config, index))


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index of a checkpoint in the diffusers layout, and the configuration of its transformer.

    Raises:
        PresetError: if the folder is no such checkpoint.
    """
    root, found = Path(path), []
    for file in (root / "model_index.json", root / "transformer" / "config.json"):
        try:
            found.append(json.loads(file.read_text("utf-8")))
            if not isinstance(found[-1], dict):
                raise ValueError(f"{file} holds no object")
        except (OSError, ValueError) as error:
            raise PresetError(
                f"{root} is not a checkpoint in the diffusers layout ({error}): give its folder"
            ) from None
    return found[0], found[1]


def model_facts(transformer: str | None, config: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, Any]:
    """What presets match on: transformer configuration, its class, and whether the pipeline has a second one."""
    second = index.get("transformer_2") or [None]
    return {**config, "transformer": transformer, "transformer_2": second[0] is not None}


def _parse(name: str, text: str) -> Preset:
    """A preset from the text of its TOML file."""
    known = {f.name for f in fields(Preset)} - {"name"}
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PresetError(f"preset {name} is not TOML: {error}") from None
    if unknown := sorted(table.keys() - known):
        raise PresetError(f"preset {name} has the unknown key {unknown[0]!r}: known are {', '.join(sorted(known))}")
    try:
        table.update({"shape": parse_shape(table["shape"])} if "shape" in table else {})
    except ValueError as error:
        raise PresetError(f"preset {name}: {error}") from None
    try:
        preset = Preset(name=name, **{"match": {}, **table})
    except TypeError:
        missing = sorted({"family", "reference_latent_frames", "vae_temporal_factor"} - table.keys())
        raise PresetError(f"preset {name} lacks {', '.join(missing)}") from None
    if preset.family not in family_names():
        raise PresetError(f"preset {name}: family must be one of {', '.join(family_names())}, got {preset.family!r}")
    if not isinstance(preset.match, Mapping):
        raise PresetError(f"preset {name}: match must be a table of configuration values, got {preset.match!r}")
    if not isinstance(preset.title, str) or not isinstance(preset.gpu, str | None):
        raise PresetError(f"preset {name}: title and gpu must be text")
    for key in ("reference_latent_frames", "vae_temporal_factor", "frames", "fps", "height", "width"):
        value = getattr(preset, key)
        unset = value is None and key in ("height", "width")
        if not unset and (type(value) is not int or value < 1):
            raise PresetError(f"preset {name}: {key} must be a positive integer, got {value!r}")
    return preset

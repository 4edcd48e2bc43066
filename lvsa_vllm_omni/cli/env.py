"""`lvsa env`: every setting, what it is here, and where that comes from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from lvsa_vllm_omni.cli import CommandError
from lvsa_vllm_omni.cli.tables import columns

DESCRIPTION = (
    "List every setting with its type, its default, the value that a server started now would read, and where that "
    "value comes from: an environment variable, LVSA_CONFIG, the preset, or the default."
)
EXAMPLE = "LVSA_WINDOW_SIZE=8 lvsa env --set"

#: Settings that a preset tells too.
FROM_PRESET = ("reference_latent_frames", "vae_temporal_factor")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `lvsa env`."""
    parser.add_argument("--set", action="store_true", help="only the settings that somebody has set")
    parser.add_argument("--json", action="store_true", help="the same as JSON, with what each setting means")


def run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of `lvsa env`.

    Raises:
        CommandError: if a setting cannot be used.
    """
    from lvsa_vllm_omni.fields import meanings
    from lvsa_vllm_omni.settings import PREFIX, LvsaSettings, SettingsError

    try:
        settings = LvsaSettings.load()
        told = table(settings)
    except SettingsError as error:
        raise CommandError(str(error)) from None
    if options.set:
        told = given(told)
    if options.json:
        means = meanings(LvsaSettings)
        for name, row in told.items():
            row["meaning"] = means.get(name.removeprefix(PREFIX).lower(), "on for a family of an installed package")
        yield json.dumps(told, indent=1)
        return
    if not told:
        yield "Nothing is set: every setting has its default."
        return
    keys = ("type", "default", "value", "source")
    rows = ([name, *(shown(row[key]) for key in keys)] for name, row in told.items())
    yield from columns([("setting", "type", "default", "value", "from"), *rows])
    yield from LvsaSettings.obsolete_names()


def table(settings: Any) -> dict[str, dict[str, Any]]:
    """Every setting by its variable: type, default, value and source.

    Args:
        settings: that were loaded.

    Raises:
        CommandError: if LVSA_PRESET names no preset.
    """
    from dataclasses import fields

    from lvsa_vllm_omni.fields import words
    from lvsa_vllm_omni.settings import PREFIX

    sources, types = settings.sources(), words(type(settings))
    preset = _of_preset(settings.preset)
    told = {}
    for field in fields(settings):
        value, source = getattr(settings, field.name), "default"
        if value != field.default:
            source = f"LVSA_RECIPE={settings.recipe}"
        if field.name in sources:
            source = sources[field.name]
        elif field.name in FROM_PRESET:
            value, source = preset.get(field.name), f"preset {settings.preset or 'of the model'}"
        told[f"{PREFIX}{field.name.upper()}"] = {
            "type": types[field.name],
            "default": field.default,
            "value": value,
            "source": source,
        }
    return told


def given(told: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows of a table that somebody has set."""
    return {name: row for name, row in told.items() if row["source"] in ("environment variable", "LVSA_CONFIG")}


def _of_preset(name: str | None) -> dict[str, int]:
    """What the preset that is named says where no setting does."""
    if name is None:
        return {}
    from lvsa_vllm_omni.presets import PresetError, load_preset

    try:
        preset = load_preset(name)
    except PresetError as error:
        raise CommandError(str(error)) from None
    return {name: getattr(preset, name) for name in FROM_PRESET}


def shown(value: Any) -> str:
    """A value as one would write it into a variable."""
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)

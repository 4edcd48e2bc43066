"""What the environment says about LVSA: the single LVSA_* variables, and the object LVSA_CONFIG."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

PREFIX = "LVSA_"

_EXAMPLE = 'give an object such as {"enable": true, "window_size": 12}'


class SettingsError(ValueError):
    """A setting cannot be used; the message names the variable, the value and what is accepted."""


def config_object() -> dict[str, Any]:
    """The JSON object of LVSA_CONFIG, empty if unset."""
    text = os.environ.get("LVSA_CONFIG", "").strip()
    if not text:
        return {}
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"LVSA_CONFIG is not JSON ({error}); {_EXAMPLE}") from None
    if not isinstance(config, dict):
        raise SettingsError(f"LVSA_CONFIG must be a JSON object, got {type(config).__name__}; {_EXAMPLE}")
    if "cpu" in config:
        raise SettingsError("'cpu' in LVSA_CONFIG comes too late to choose the platform: set the variable LVSA_CPU")
    return config


def _variables() -> dict[str, str]:
    """The variables of the environment, in whatever case, by the names of their settings."""
    names = (name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() != "LVSA_CONFIG")
    return {name.upper().removeprefix(PREFIX).lower(): name for name in names}


def set_variables() -> dict[str, str]:
    """The values of those that are not empty: an empty one counts as unset."""
    return {name: os.environ[variable] for name, variable in _variables().items() if os.environ[variable]}


def given_names(config: Mapping[str, Any]) -> dict[str, str]:
    """The names that the user gives, and where; LVSA_CONFIG wins."""
    variables = {name: variable.upper() for name, variable in _variables().items()}
    return variables | {name: f"{name!r} in LVSA_CONFIG" for name in config}

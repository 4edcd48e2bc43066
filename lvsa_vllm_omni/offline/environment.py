"""LVSA's variables for the engine's processes: what the caller has set, and the flags of a command line over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lvsa_vllm_omni.hooks import family_names, hook_field
from lvsa_vllm_omni.settings import LOCAL, PREFIX, Family, LvsaSettings

#: Settings that change no video, or stand in fields of their own: where LVSA is on, the model, the kernel, refusals.
_NOT_DECISIVE = {*LOCAL, "enable", "auto", "preset", "backend", "skip_kernels", "allow_request_knobs", "strict"}


def dense_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the baseline: no LVSA variable but the one that chooses the CPU platform."""
    kept = f"{PREFIX}CPU"
    return {k: v for k, v in environ.items() if not k.upper().startswith(PREFIX) or k.upper() == kept}


def sparse_environment(environ: Mapping[str, str], family: Family, flags: Mapping[str, Any]) -> dict[str, str]:
    """The environment with LVSA on for one family of models.

    The caller's own LVSA variables stay, those that switch LVSA on or off included. A flag wins over them, and over
    LVSA_CONFIG, which otherwise wins over every single variable.

    Args:
        environ: the caller's environment.
        family: the model's.
        flags: settings by their lower-case names; None leaves a setting alone.
    """
    chosen = {name: value for name, value in flags.items() if value is not None}
    config = _parsed(environ.get(f"{PREFIX}CONFIG"))
    # Names are read in any case; an empty value counts as unset.
    given = {name.upper().removeprefix(PREFIX).lower() for name, value in environ.items() if value} | config.keys()
    if not given & {"enable", "auto", hook_field(family)}:
        chosen[hook_field(family)] = True
    overridden = {f"{PREFIX}{name.upper()}" for name in chosen}
    result = {name: value for name, value in environ.items() if name.upper() not in overridden}
    for name, value in chosen.items():
        result[f"{PREFIX}{name.upper()}"] = str(int(value) if isinstance(value, bool) else value)
    if config.keys() & chosen.keys():
        result[f"{PREFIX}CONFIG"] = json.dumps({name: value for name, value in config.items() if name not in chosen})
    return result


def decisive_settings(settings: LvsaSettings, family: Family) -> dict[str, Any]:
    """The settings that differ from their defaults and change a video; `auto` where LVSA waits for long requests."""
    others = _NOT_DECISIVE | {hook_field(name) for name in family_names()}
    changed = {name: value for name, value in settings.changed.items() if name not in others}
    return {"auto": True, **changed} if settings.mode(family) == "beyond" else changed


def _parsed(text: str | None) -> dict[str, Any]:
    """LVSA_CONFIG as a dict; what is not a JSON object is left to the settings to refuse, with their own sentence."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

"""What a request asks of LVSA for itself: ``extra_params={"lvsa": {...}}`` over HTTP, ``extra_args`` offline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from pydantic_core import ValidationError

from lvsa_vllm_omni.fields import schema, schemas, validator
from lvsa_vllm_omni.settings import LvsaSettings
from lvsa_vllm_omni.validation import sentence

#: The key in a request's ``extra_args``, and how errors call it.
KEY, NAMED = "lvsa", "extra_params.lvsa"
#: Settings that a request may bring; with ``enabled``, which is its own.
KNOBS = (
    "sparsity_scale", "window_size", "n_first_frames", "key_frame_interval", "auto_keyframes", "rotate_keyframes",
    "expand_window", "reference_latent_frames", "riflex_scale", "anchor_positions", "anchor_boost", "rotate_after",
    "recipe",
)  # fmt: skip
NAMES = ("enabled", *KNOBS)

#: With the types and ranges of the settings.
_VALIDATOR = validator({"enabled": schema(bool | None), **{name: schemas(LvsaSettings)[name] for name in KNOBS}})


class Chosen(NamedTuple):
    """What holds for a request.

    Args:
        settings: the server's, with the request's knobs in them.
        enabled: whether the request asks for sparse attention, or for dense; None: it does not say.
    """

    settings: LvsaSettings
    enabled: bool | None = None


def chosen(settings: LvsaSettings, asked: Any) -> Chosen:
    """The settings of a request: its own knobs over the server's.

    Args:
        asked: what it brings under ``lvsa``; None: nothing.

    Raises:
        ValueError: one sentence that names the knob, if a name or a value cannot be used, or requests bring no knobs.
    """
    if asked is None:
        return Chosen(settings)
    if not settings.allow_request_knobs:
        raise ValueError(f"{NAMED}: this server takes no knobs of requests (LVSA_ALLOW_REQUEST_KNOBS=0), leave it out")
    from lvsa_core.knobs import nearest, with_recipe  # torch comes with it

    if not isinstance(asked, Mapping):
        raise ValueError(f'{NAMED} must be an object such as {{"sparsity_scale": 0.5}}, got {asked!r}')
    for name in asked:
        if name not in NAMES:
            raise ValueError(f"{NAMED} has no knob {name!r}; {nearest(str(name), NAMES)}")
    try:
        values = _VALIDATOR.validate_python(with_recipe(asked))
        if settings.recipe and "recipe" in asked and asked["recipe"] is None:  # without the server's
            values = {**_plain(), **values}
        if values.get("rotate_keyframes") is False and "rotate_after" not in asked:
            values["rotate_after"] = 0.0  # a recipe's
        enabled = values.pop("enabled", None)
        if enabled is False:
            values.setdefault("riflex_scale", None)  # the server's belongs to what the request does not want
        own = replace(settings, **values)
        _ = own.knobs
    except ValidationError as error:
        raise ValueError(f"{NAMED}.{sentence(error)}") from None
    except ValueError as error:
        raise ValueError(f"{NAMED}: {error}") from None
    if own.auto_keyframes and "key_frame_interval" in asked:
        raise ValueError(f"{NAMED}.key_frame_interval has an effect with auto_keyframes=false only: give both")
    return Chosen(own, enabled)


def _plain() -> dict[str, Any]:
    """What recipes set, as it is without one."""
    from lvsa_core.knobs import RECIPES

    defaults = {field.name: field.default for field in fields(LvsaSettings)}
    return {name: defaults[name] for recipe in RECIPES.values() for name in recipe}


def asked_by(request: Any) -> Any:
    """What a request of the engine brings for LVSA, None if nothing."""
    return (getattr(getattr(request, "sampling_params", None), "extra_args", None) or {}).get(KEY)


def signature(request: Any) -> str:
    """A text that differs between requests that bring different knobs."""
    return json.dumps(asked_by(request), sort_keys=True, default=repr)

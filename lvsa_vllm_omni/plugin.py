"""Entry point of the plugin: settings, backend name, hooks, one summary line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.hooks import (
    FamilySpec,
    FamilyUnavailable,
    HookError,
    MissingModel,
    check_names,
    family_names,
    forget_families,
    load_family,
)
from lvsa_vllm_omni.presets import PresetError, load_preset
from lvsa_vllm_omni.settings import LvsaSettings, Mode, SettingsError

#: What is undone last, beside the families; no family can have these names.
_RUNNER, _SERVER = "model runner", "http server"
#: The class behind the name ``LVSA``; it imports this module, so that only the engine imports it.
_BACKEND = "lvsa_vllm_omni.by_name.LvsaBackend"

_undo: dict[str, Callable[[], None]] = {}
_settings: LvsaSettings | None = None
_active = False


def register() -> None:
    """Called by vLLM and vLLM-Omni in every process before a model is built, once by each group of entry points.

    The first call checks the settings. The first call inside vLLM-Omni makes the name ``LVSA`` known to its attention
    configuration and, where a setting asks for it, installs the hooks; vLLM alone has nothing to hook. Otherwise
    nothing happens.

    Raises:
        SettingsError, PresetError: on a wrong setting. HookError: if a hook that was asked for does not fit the
            installed engine. SystemExit: instead of these in the ``vllm`` command, with the sentence alone.
    """
    global _settings, _active
    try:
        if _settings is None:
            _settings = LvsaSettings.load()
        if not _active and "vllm_omni" in sys.modules:
            from lvsa_vllm_omni import seam

            seam.register_name(_BACKEND)
            modes: dict[str, Mode] = {family: _settings.mode(family) for family in family_names()}
            activate(_settings, {family: mode for family, mode in modes.items() if mode != "off"})
            _active = True
    except (SettingsError, PresetError, HookError) as error:
        command = Path(sys.argv[0]).name
        if command in ("vllm", "vllm-omni") and threading.current_thread() is threading.main_thread():
            raise SystemExit(f"error: {error}") from None  # the user of a command has no use for a traceback
        raise


def activate(settings: LvsaSettings, modes: Mapping[str, Mode]) -> None:
    """Install the hooks of some families, and say so in one line."""
    if not modes:
        return
    from lvsa_vllm_omni import compat, http_server, journal, runner, seam
    from lvsa_vllm_omni.adopt import adopt

    untested = compat.check_release(allow=settings.allow_untested)
    check_names()
    settings.check_backend()
    if settings.preset:
        load_preset(settings.preset)
    for sentence in settings.obsolete_names():
        journal.logger.warning("[LVSA] %s", sentence)
    installed = []
    for spec in _specs(settings, modes):
        family, mode = spec.name, modes[spec.name]
        try:
            _undo[family] = seam.install(spec, partial(adopt, spec=spec, settings=settings, mode=mode))
        except MissingModel:
            if settings.hook(family):
                raise
            continue  # an engine that does not have a model cannot run it without LVSA either
        installed.append(family if mode == "always" else f"{family} (beyond the training horizon)")
    if installed:
        if untested:
            journal.logger.warning_once("[LVSA] %s", untested)
        _undo.setdefault(_RUNNER, runner.install(journal.not_used, settings))
        _undo.setdefault(_SERVER, seam.replace_server(http_server.with_an_end))
        journal.enabled(", ".join(installed), _shown(settings))


def _specs(settings: LvsaSettings, families: Iterable[str]) -> list[FamilySpec]:
    """The specifications of some families; one that cannot be had is left out with a warning, if no setting names it.

    A transformer class has one family: the one that a setting names, else the first.

    Raises:
        HookError: if it cannot be had and a setting names it.
    """
    from lvsa_vllm_omni import journal

    installed = [load_family(family) for family in _undo if family not in (_RUNNER, _SERVER)]
    owners = {spec.transformer: spec for spec in installed}
    found = []
    for family in sorted(families, key=lambda family: not settings.hook(family)):
        try:
            spec = load_family(family)
            owner = owners.setdefault(spec.transformer, spec)
            if owner is not spec:
                raise FamilyUnavailable(
                    f"the families {owner.name!r} and {family!r} are both for {spec.transformer_class}: it runs with "
                    f"{owner.name!r}; set {owner.setting}=0 to choose the other, or {spec.setting}=0"
                )
        except FamilyUnavailable as error:
            if settings.hook(family):
                raise
            journal.logger.warning_once("[LVSA] %s", str(error))
            continue
        found.append(spec)
    return found


def activate_by_name() -> None:
    """Install the hooks because the user chose ``LVSA`` in the engine's attention configuration.

    Families that a variable switched on keep their mode; a family that is explicitly off stays off.
    """
    settings = LvsaSettings.load()
    missing: dict[str, Mode] = {
        family: "always" for family in family_names() if family not in _undo and settings.hook(family) is not False
    }
    if missing:
        activate(settings, missing)


def is_active() -> bool:
    """Whether a hook is installed in this process."""
    return bool(_undo)


def deactivate() -> None:
    """Take every hook off again: transformers built from now on are the engine's own."""
    global _settings, _active
    while _undo:
        _undo.popitem()[1]()
    forget_families()
    _settings, _active = None, False


def _shown(settings: LvsaSettings) -> str:
    """The settings that decide the pattern, and whatever else differs from its default."""
    always: dict[str, Any] = {name: getattr(settings, name) for name in ("backend", "window_size", "n_first_frames")}
    changed = {
        name: value for name, value in settings.changed.items() if not name.endswith("_hook") and name != "enable"
    }
    return " ".join(f"{name}={value}" for name, value in {**always, **changed}.items())

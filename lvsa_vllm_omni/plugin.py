"""Entry point of the plugin: settings, backend name, hooks, one summary line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.hooks import SPECS, HookError, MissingModel
from lvsa_vllm_omni.presets import PresetError, load_preset
from lvsa_vllm_omni.settings import FAMILIES, LvsaSettings, Mode, SettingsError

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
            from lvsa_vllm_omni import compat

            compat.register_backend_name()
            modes: dict[str, Mode] = {family: _settings.mode(family) for family in FAMILIES}
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
    from lvsa_vllm_omni import journal, seam
    from lvsa_vllm_omni.adopt import adopt

    settings.check_backend()
    if settings.preset:
        load_preset(settings.preset)
    for sentence in settings.obsolete_names():
        journal.logger.warning("[LVSA] %s", sentence)
    installed = []
    for family, mode in modes.items():
        spec = SPECS[family]
        try:
            _undo[family] = seam.install(spec, partial(adopt, spec=spec, settings=settings, mode=mode))
        except MissingModel:
            if getattr(settings, f"{family}_hook"):
                raise
            continue  # an engine that does not have a model cannot run it without LVSA either
        installed.append(family if mode == "always" else f"{family} (beyond the training horizon)")
    if installed:
        _undo.setdefault("runner", seam.install_runner(journal.not_used))
        journal.enabled(", ".join(installed), _shown(settings))


def activate_by_name() -> None:
    """Install the hooks because the user chose ``LVSA`` in the engine's attention configuration.

    Families that a variable switched on keep their mode; a family that is explicitly off stays off.
    """
    settings = LvsaSettings.load()
    explicit = {family: getattr(settings, f"{family}_hook") for family in SPECS}
    missing: dict[str, Mode] = {
        family: "always" for family in SPECS if family not in _undo and explicit[family] is not False
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
    _settings, _active = None, False


def _shown(settings: LvsaSettings) -> str:
    """The settings that decide the pattern, and whatever else differs from its default."""
    always: dict[str, Any] = {name: getattr(settings, name) for name in ("backend", "window_size", "n_first_frames")}
    changed = {
        name: value
        for name, value in settings
        if value != type(settings).model_fields[name].default and not name.endswith("_hook") and name != "enable"
    }
    return " ".join(f"{name}={value}" for name, value in {**always, **changed}.items())

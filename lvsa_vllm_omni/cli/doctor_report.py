"""What `lvsa doctor` finds: each check adds to a dict, and yields its lines as soon as it knows them."""

from __future__ import annotations

import importlib
import os
import platform
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lvsa_core.kernels import KERNELS, candidates
from lvsa_vllm_omni import compat, parallelism
from lvsa_vllm_omni.cli import CommandError
from lvsa_vllm_omni.cli.env import given, shown, table
from lvsa_vllm_omni.cli.serve_run import first_sparse
from lvsa_vllm_omni.hooks import HookError, MissingModel, family_names, load_family
from lvsa_vllm_omni.measure.machine import driver, memory, processor
from lvsa_vllm_omni.measure.trial import trial
from lvsa_vllm_omni.presets import PresetError, known_presets, load_preset
from lvsa_vllm_omni.settings import LvsaSettings, SettingsError

PACKAGES = ("lvsa-vllm-omni", "vllm-omni", "vllm", "torch", "diffusers")

#: What a GB is.
GB = 1e9


def examine(found: dict[str, Any]) -> Iterator[str]:
    """Look at everything, and tell it.

    Args:
        found: gets versions, settings, families, device, kernels, problems (empty if a server starts), and the server's
            sentence.

    Raises:
        CommandError: if a setting is wrong.
    """
    found["problems"] = []
    found["versions"] = {**{package: _version(package) for package in PACKAGES}, "python": platform.python_version()}
    yield ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    settings = _settings()
    for check in (_told_settings, _families, _device, _kernels, _server):
        yield from check(found, settings)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _settings() -> LvsaSettings:
    try:
        settings = LvsaSettings.load()
        settings.check_backend()
        if settings.preset:
            load_preset(settings.preset)
    except (SettingsError, PresetError, HookError) as error:
        raise CommandError(str(error)) from None
    return settings


def _told_settings(found: dict[str, Any], settings: LvsaSettings) -> Iterator[str]:
    """What is set, and where; `lvsa env` tells the rest."""
    rows = table(settings)
    found["settings"] = {name: {key: row[key] for key in ("value", "source")} for name, row in rows.items()}
    for name, row in given(rows).items():
        yield f"setting {name}: {shown(row['value'])} ({row['source']})"
    if not given(rows):
        yield "no setting is set: `lvsa env` lists them with their defaults"
    yield from settings.obsolete_names()


def _families(found: dict[str, Any], settings: LvsaSettings) -> Iterator[str]:
    """Which families are switched on, and whether their hooks fit."""
    found["switched_on"] = on = [family for family in family_names() if settings.mode(family) != "off"]
    yield f"switched on: {', '.join(on) or 'nothing; set LVSA_ENABLE=1, or LVSA_<FAMILY>_HOOK=1 for one family'}"
    if missing := engine_problem():
        found["problems"].append(missing)
    else:
        try:
            untested = compat.check_release(allow=settings.allow_untested)
        except HookError as error:
            untested = str(error)
            found["problems"] += [untested] * bool(on)
        if untested:
            yield untested
    found["families"] = {family: missing or hook_problem(family) for family in family_names()}
    for family, problem in found["families"].items():
        yield f"{family}: {problem or 'the hook fits this engine'}"
        if problem and family in on and not missing:
            found["problems"].append(problem)


def engine_problem() -> str:
    """Why there is no engine here, empty if there is one."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        importlib.import_module("vllm_omni")
    except ImportError as error:
        return f"vLLM-Omni cannot be imported ({error}): pip install vllm==0.30.0 vllm-omni==0.30.0"
    return ""


def hook_problem(family: str) -> str:
    """Why a family's hook does not fit the installed engine, empty if it does."""
    from lvsa_vllm_omni.model_class import resolve

    try:
        resolve(load_family(family))
    except MissingModel as error:
        return f"not in this engine ({error})"
    except HookError as error:
        return str(error)
    return ""


def _device(found: dict[str, Any], settings: LvsaSettings) -> Iterator[str]:
    """The accelerators with their memory, or the processor with its own."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    found["devices"], count = [], torch.accelerator.device_count()
    for device in [torch.device(kind.type, number) for number in range(count)] if kind else [torch.device("cpu")]:
        total, free = memory(device)
        found["devices"].append({"device": str(device), "name": _name(device), "memory": total, "free": free})
        sizes = [] if total is None or free is None else [f"{total / GB:.1f} GB memory", f"{free / GB:.1f} GB free"]
        yield f"device {device}: {', '.join([_name(device), *sizes])}"
    if kind is None and not settings.cpu:
        found["problems"].append("there is no accelerator: LVSA_CPU=1 lets the engine run on the CPU")
    if kind and kind.type == "cuda":
        found["driver"] = driver()


def _name(device: torch.device) -> str:
    """What people call a device."""
    if device.type == "cpu":
        return processor()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _kernels(found: dict[str, Any], settings: LvsaSettings) -> Iterator[str]:
    """What the kernels do for the usual types, each tried in a process of its own, and which would run."""
    device = torch.device(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    yield f"kernels on {device}, bfloat16, head size 128, the fastest first, each tried in a process of its own:"
    allowed, missing, problems = candidates(settings.kernel), defaultdict(list), found["problems"]
    found["kernels"], chosen = {name: {"outcome": "left out", "reason": ""} for name in KERNELS}, ""
    for kernel in allowed:
        tried = trial(kernel, device, torch.bfloat16, 128)
        found["kernels"][kernel.name] = {"outcome": tried.outcome, "reason": tried.reason}
        if tried.outcome == "not available":
            missing[tried.reason].append(kernel.name)
            continue
        yield f"  {tried}"
        if tried.outcome == "crashed" and not chosen:
            problems.append(f"the kernel {kernel.name} would be tried and crash: set LVSA_SKIP_KERNELS={kernel.name}")
        if tried.outcome == "right" and not chosen:
            chosen = kernel.name
            yield from parallelism.refusals(lse=hasattr(kernel, "attention"))
    yield from (f"  {', '.join(names)}: not available ({reason})" for reason, names in missing.items())
    if left_out := [name for name, kernel in KERNELS.items() if kernel not in allowed]:
        yield f"  {', '.join(left_out)}: left out by LVSA_BACKEND or LVSA_SKIP_KERNELS"
    found["kernel"] = chosen or None
    if chosen:
        yield f"kernel that LVSA takes: {chosen}"
    else:
        problems.append(f"of the kernels that LVSA_BACKEND={settings.kernel} allows none runs on {device}")


def _server(found: dict[str, Any], settings: LvsaSettings) -> Iterator[str]:
    """What a server would do, in one sentence."""
    lengths = ""
    try:
        lengths = "; ".join(f"{family} {_from(family, settings)}" for family in found["switched_on"])
    except ValueError as error:
        found["problems"].append(str(error))
    if found["problems"]:
        does = f"would not start: {'; '.join(found['problems'])}"
    elif not found["switched_on"]:
        does = "would compute every request densely: LVSA is off, and `lvsa serve MODEL` switches it on for its model"
    else:
        does = f"would compute long requests sparsely with {found['kernel']}, {lengths}; all others densely"
    found["server"] = f"a server started now {does}"
    yield found["server"]


def _from(family: str, settings: LvsaSettings) -> str:
    """From which length on the requests of a family are sparse."""
    presets = {settings.preset: load_preset(settings.preset)} if settings.preset else known_presets(family)
    models: dict[int, list[str]] = defaultdict(list)
    for name, preset in presets.items():
        models[first_sparse(preset, settings, settings.mode(family))].append(str(name))
    if len(models) == 1:
        return f"from {next(iter(models))} frames on"
    return " and ".join(f"from {frames} frames on ({', '.join(names)})" for frames, names in models.items())

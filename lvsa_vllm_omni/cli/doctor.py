"""`lvsa doctor`: what of LVSA would run on this machine, and what under which parallelism."""

from __future__ import annotations

import argparse
import importlib
import os
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from lvsa_vllm_omni import compat, parallelism
from lvsa_vllm_omni.cli import CommandError
from lvsa_vllm_omni.cli.tables import columns, markdown_table
from lvsa_vllm_omni.hooks import HookError, MissingModel, family_names, load_family
from lvsa_vllm_omni.presets import PresetError, load_preset
from lvsa_vllm_omni.settings import LvsaSettings, SettingsError

PACKAGES = ("lvsa-vllm-omni", "vllm-omni", "vllm", "torch")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `lvsa doctor`."""
    parser.add_argument("--matrix", action="store_true", help="what LVSA does under each kind of parallelism")
    parser.add_argument("--markdown", action="store_true", help="with --matrix: the table of docs/parallelism.md")


def run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of `lvsa doctor`.

    Raises:
        CommandError: if something of what is switched on does not run here; the lines before it say what does.
    """
    if options.markdown and not options.matrix:
        raise CommandError("--markdown is for the table: give --matrix too")
    if options.matrix:
        rows = list(parallelism.table())
        if options.markdown:
            yield from markdown_table(rows)
            return
        yield from columns([(title, *verdicts, flags) for title, flags, *verdicts, _how in rows])
        for option in parallelism.PLACEMENTS:
            yield from (f"{option.title}, {name}: {why}" for name, why in option.engine_limits.items())
        return
    yield ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    settings = _settings()
    on = [family for family in family_names() if settings.mode(family) != "off"]
    yield f"switched on: {', '.join(on) or 'nothing; set LVSA_ENABLE=1, or LVSA_<FAMILY>_HOOK=1 for one family'}"
    problems = []
    try:
        untested = compat.check_release(allow=settings.allow_untested)
    except HookError as error:
        untested = str(error)
        problems += [untested] * bool(on)
    if untested:
        yield untested
    for family in family_names():
        problem = _problem(family)
        yield f"{family}: {problem or 'the hook fits this engine'}"
        if problem and family in on:
            problems.append(problem)
    yield from _kernels(settings, problems)
    if problems:
        raise CommandError("what is switched on does not run here: " + "; ".join(problems))


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


def _problem(family: str) -> str:
    """Why a family's hook does not fit the installed engine, empty if it does."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        importlib.import_module("vllm_omni")
    except ImportError as error:
        return f"vLLM-Omni cannot be imported ({error}): pip install vllm==0.30.0 vllm-omni==0.30.0"
    from lvsa_vllm_omni import seam

    try:
        seam.check(load_family(family))
    except MissingModel as error:
        return f"not in this engine ({error})"
    except HookError as error:
        return str(error)
    return ""


def _kernels(settings: LvsaSettings, problems: list[str]) -> Iterator[str]:
    """What the kernels do for the usual types, each tried in a process of its own, and which would run.

    What is wrong is added to ``problems``.
    """
    import torch

    from lvsa_core.kernels import KERNELS, candidates
    from lvsa_vllm_omni.measure.trial import trial

    device = torch.device(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    yield f"kernels on {device}, bfloat16, head size 128, the fastest first, each tried in a process of its own:"
    allowed, missing, chosen = candidates(settings.kernel), defaultdict(list), ""
    for kernel in allowed:
        found = trial(kernel, device, torch.bfloat16, 128)
        if found.outcome == "not available":
            missing[found.reason].append(kernel.name)
            continue
        yield f"  {found}"
        if found.outcome == "crashed" and not chosen:
            problems.append(f"the kernel {kernel.name} would be tried and crash: set LVSA_SKIP_KERNELS={kernel.name}")
        if found.outcome == "right" and not chosen:
            chosen = kernel.name
            yield from parallelism.refusals(lse=hasattr(kernel, "attention"))
    yield from (f"  {', '.join(names)}: not available ({reason})" for reason, names in missing.items())
    if left_out := [name for name, kernel in KERNELS.items() if kernel not in allowed]:
        yield f"  {', '.join(left_out)}: left out by LVSA_BACKEND or LVSA_SKIP_KERNELS"
    if chosen:
        yield f"kernel that LVSA takes: {chosen}"
    else:
        problems.append(f"of the kernels that LVSA_BACKEND={settings.kernel} allows none runs on {device}")
    if device.type == "cpu" and not settings.cpu:
        yield "there is no accelerator: LVSA_CPU=1 lets the engine run on the CPU"

"""What `lvsa serve` sets for the server that it becomes, and what it says before."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

from lvsa_core.decide import decide
from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.cli import CommandError, CommandFailed
from lvsa_vllm_omni.cli.request import arguments_of
from lvsa_vllm_omni.hooks import hook_field
from lvsa_vllm_omni.presets import Preset, preset_of
from lvsa_vllm_omni.settings import PREFIX, LvsaSettings, Mode

#: The flag of a setting: --lvsa-window-size 8 is LVSA_WINDOW_SIZE=8.
FLAG = "--lvsa-"
#: Variables of the engine that end a request of several workers, after 600 s where nobody says otherwise.
TIMEOUTS = ("VLLM_OMNI_DLO_DP_WAVE_TIMEOUT", "VLLM_OMNI_ASYNC_OUTPUT_TIMEOUT")

#: Folder in which the server's processes share their metrics, so that /metrics shows what its workers count.
METRICS = "PROMETHEUS_MULTIPROC_DIR"

_FOLDER = "lvsa-metrics-"

#: Latent frames beyond which no request is looked at.
LONGEST = 1024


def start(arguments: Sequence[str]) -> Iterator[str]:
    """Say what the server will do, and become the server.

    Args:
        arguments: those behind ``lvsa serve``, at least one.

    Raises:
        CommandError: a model or an option cannot be used. CommandFailed: there is no engine here.
    """
    try:
        command, line = prepare(arguments, os.environ)
    except CommandError:
        raise
    except ValueError as error:  # of the checkpoint, the preset or a setting
        raise CommandError(str(error).removeprefix("--model ")) from None
    yield line
    os.execv(command[0], command)


def prepare(arguments: Sequence[str], environment: MutableMapping[str, str]) -> tuple[list[str], str]:
    """Set the variables of a server.

    Args:
        arguments: those behind ``lvsa serve``. environment: which is changed.

    Returns:
        The command that starts the engine's server, and what is said before.

    Raises:
        CommandError: a model or an option that cannot be used, with a sentence for the user.
    """
    if arguments[0].startswith("-"):
        raise CommandError(f"the model comes first, got {arguments[0]}: lvsa serve MODEL {' '.join(arguments)}")
    model, rest = arguments[0], _settings(list(arguments[1:]), environment)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--max-seconds")
    options, rest = parser.parse_known_args(rest)
    if options.max_seconds is not None:
        if not options.max_seconds.isdecimal() or not int(options.max_seconds):
            raise CommandError(f"--max-seconds {options.max_seconds}: give a whole number of seconds, such as 7200")
        for name in TIMEOUTS:
            environment.setdefault(name, options.max_seconds)
    settings = LvsaSettings.load()
    preset = preset_of(Checkpoint.read(model), None, settings.preset)
    if settings.mode(preset.family) == "off" and settings.hook(preset.family) is None:
        environment[PREFIX + hook_field(preset.family).upper()] = "1"
        settings = LvsaSettings.load()
    settings.check_backend()
    if environment.get("VLLM_PLUGINS") and "lvsa" not in environment["VLLM_PLUGINS"].split(","):
        environment["VLLM_PLUGINS"] += ",lvsa"
    beside = Path(sys.executable).with_name("vllm")
    program = str(beside) if beside.exists() else shutil.which("vllm")
    if program is None:
        raise CommandFailed("vLLM is not installed here: uv pip install vllm==0.30.0 vllm-omni==0.30.0")
    omni, line = [] if "--omni" in rest else ["--omni"], _sentence(model, preset, settings)
    if METRICS not in environment:
        environment[METRICS] = _metrics_folder()
    return [program, "serve", model, *omni, *rest], line


def _metrics_folder() -> str:
    """A new folder, named by this process, which becomes the server; those of servers that have ended are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        number = old.name.removeprefix(_FOLDER).partition("-")[0]
        try:
            os.kill(int(number), 0)
        except (ProcessLookupError, OverflowError):
            shutil.rmtree(old, ignore_errors=True)
        except (PermissionError, ValueError):  # another user's server, or not one of these folders
            continue
    return tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")


def _settings(arguments: list[str], environment: MutableMapping[str, str]) -> list[str]:
    """Set the variables of all --lvsa-* flags; returns the other arguments."""
    rest: list[str] = []
    while arguments:
        word = arguments.pop(0)
        if not word.startswith(FLAG):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix(FLAG).partition("=")
        if not equals:
            if not arguments or arguments[0].startswith("--"):
                raise CommandError(f"{word} has no value: {word}=1 switches it on")
            value = arguments.pop(0)
        environment[PREFIX + name.replace("-", "_").upper()] = value
    return rest


def _sentence(model: str, preset: Preset, settings: LvsaSettings) -> str:
    """What the server will do."""
    who = f"[LVSA] serving {model}: family={preset.family} preset={preset.name}"
    mode = settings.mode(preset.family)
    if mode == "off":
        return f"{who}; LVSA is off, every request is dense: {PREFIX}{hook_field(preset.family).upper()} says so"
    return f"{who}; requests from {first_sparse(preset, settings, mode)} frames on are sparse, shorter ones are dense"


def first_sparse(preset: Preset, settings: LvsaSettings, mode: Mode) -> int:
    """Video frames of the shortest request that is sparse.

    Raises:
        ValueError: if the model cannot do what the settings ask for.
    """
    arguments = arguments_of(settings, preset)

    def sparse(frames: int) -> bool:
        """A video of so many latent frames; with one denoising step, as all answer alike."""
        return decide(frames, 0, arguments, steps=1, beyond_only=mode == "beyond")[1].verdict == "sparse"

    return (next(filter(sparse, range(1, LONGEST)), LONGEST) - 1) * preset.vae_temporal_factor + 1
